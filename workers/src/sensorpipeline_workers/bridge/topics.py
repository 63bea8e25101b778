"""Topic templates such as `building/{device}/energy`: the filters that subscribe to all, and what a topic says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sensorpipeline_api.spec import Fleet

Route = TypeVar("Route")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: its fleet, its device, and the metric if the topic names one. `birth` says that it is
    a Sparkplug birth."""

    fleet: Fleet
    device: str
    metric: str | None
    birth: bool = False


def topic_filter(template: str) -> str:
    """Returns the MQTT filter that matches every topic of a template."""
    return "/".join("+" if level in {"{device}", "{metric}"} else level for level in template.split("/"))


def subscriptions(fleets: list[Fleet], share: str) -> list[str]:
    """Returns the filters that a member of the group subscribes to. Data is shared among the members; Sparkplug births
    go to each, since each must know the names behind the aliases."""
    out = []
    for fleet in fleets:
        data, *births = fleet.topic_templates
        out += [f"$share/{share}/{topic_filter(data)}", *map(topic_filter, births)]
    return out


def parse_topic(fleet: Fleet, topic: str) -> Origin | None:
    """Returns what a topic says by a fleet's templates, or None when it fits none."""
    for number, template in enumerate(fleet.topic_templates):
        found = _match(template, topic)
        if found is not None:
            return Origin(fleet, found["{device}"], found.get("{metric}"), birth=number > 0)
    return None


def _match(template: str, topic: str) -> dict[str, str] | None:
    levels, parts = topic.split("/"), template.split("/")
    if len(levels) != len(parts):
        return None
    found: dict[str, str] = {}
    for level, part in zip(levels, parts, strict=True):
        if part in {"{device}", "{metric}"}:
            found[part] = level
        elif part != level:
            return None
    return found


class TopicTable(Generic[Route]):
    """Finds what is to be done with a topic's messages; remembers a bounded number of topics, since devices repeat
    themselves. `make` is called for the origin of each new topic; `known` holds what was found before."""

    def __init__(self, fleets: list[Fleet], make: Callable[[Origin], Route], *, maximum: int = 100_000) -> None:
        self._fleets = fleets
        self._make = make
        self.known: dict[str, Route] = {}
        self._maximum = maximum

    def find(self, topic: str) -> Route | None:
        """Returns the route of a topic, or None when no fleet's template fits."""
        route = self.known.get(topic)
        if route is None:
            origin = next((o for fleet in self._fleets if (o := parse_topic(fleet, topic))), None)
            if origin is not None:
                if len(self.known) >= self._maximum:
                    self.known.clear()
                self.known[topic] = route = self._make(origin)
        return route
