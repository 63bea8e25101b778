"""Topic templates such as `building/{device}/energy`: the filter that subscribes to all, and what a topic says."""

from dataclasses import dataclass

from sensorpipeline_api.spec import Fleet


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: its fleet, its device, and the metric if the topic names one."""

    fleet: Fleet
    device: str
    metric: str | None


def topic_filter(template: str) -> str:
    """Returns the MQTT filter that matches every topic of a template."""
    return "/".join("+" if level in {"{device}", "{metric}"} else level for level in template.split("/"))


def parse_topic(fleet: Fleet, topic: str) -> Origin | None:
    """Returns what a topic says by a fleet's template, or None when it does not fit."""
    levels, template = topic.split("/"), fleet.topic.split("/")
    if len(levels) != len(template):
        return None
    found: dict[str, str] = {}
    for level, part in zip(levels, template, strict=True):
        if part in {"{device}", "{metric}"}:
            found[part] = level
        elif part != level:
            return None
    return Origin(fleet=fleet, device=found["{device}"], metric=found.get("{metric}"))


class TopicTable:
    """Finds a topic's origin; remembers a bounded number of topics, since devices repeat themselves."""

    def __init__(self, fleets: list[Fleet], *, maximum: int = 100_000) -> None:
        self._fleets = fleets
        self._known: dict[str, Origin] = {}
        self._maximum = maximum

    def find(self, topic: str) -> Origin | None:
        """Returns the origin of a topic, or None when no fleet's template fits."""
        origin = self._known.get(topic)
        if origin is None:
            origin = next((o for fleet in self._fleets if (o := parse_topic(fleet, topic))), None)
            if origin is not None:
                if len(self._known) >= self._maximum:
                    self._known.clear()
                self._known[topic] = origin
        return origin
