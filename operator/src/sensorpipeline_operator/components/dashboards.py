"""Dashboards generated from the resource: sensor history by event time, and the pipeline's own state by the clock."""

from datetime import timedelta
from typing import Any

from grafana_foundation_sdk.builders import dashboard, prometheus, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from sensorpipeline_api.spec import Fleet, Metric, Window
from sensorpipeline_api.units import window_unit

from sensorpipeline_operator.components.context import Context

DATA_SOURCE = "prometheus"
HOUR, DAY = 3600, 86400
SIMULATED_DAYS_SHOWN = 30


def build_dashboards(context: Context) -> dict[str, str]:
    """Returns the dashboards' JSON by file name."""
    return {"sensors.json": _encode(_sensors(context)), "pipeline.json": _encode(_pipeline(context))}


def _encode(built: dashboard.Dashboard) -> str:
    return JSONEncoder(sort_keys=True, indent=1).encode(built.build())


def _source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid=DATA_SOURCE)


def _query(expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).datasource(_source())


def _chart(title: str, unit: str, *queries: prometheus.Dataquery) -> timeseries.Panel:
    panel = timeseries.Panel().title(title).unit(unit).height(8).span(12).datasource(_source())
    for query in queries:
        panel = panel.with_target(query)
    return panel


def _table(title: str, *queries: prometheus.Dataquery) -> table.Panel:
    panel = table.Panel().title(title).height(8).span(12).datasource(_source())
    for query in queries:
        panel = panel.with_target(query)
    return panel


def _unit(unit: str) -> str:
    """Returns Grafana's name for a user's unit: shown as it is, never taken for one of those that Grafana scales."""
    return f"suffix:{unit}" if unit else "short"


def _duration(seconds: int) -> str:
    return f"{seconds // DAY}d" if seconds % DAY == 0 else f"{seconds}s"


def _reading_range(context: Context, fleet: Fleet) -> int:
    """Returns how far a chart of raw readings looks back for the last value, in s: two periods of the slowest
    simulated device, at least an hour."""
    devices = context.spec.simulation.devices if context.spec.simulation is not None else []
    return max([HOUR, *(2 * device.period_seconds for device in devices if device.fleet == fleet.name)])


def _reading(context: Context, fleet: Fleet, metric: Metric) -> timeseries.Panel:
    selector = f'sensorpipeline_reading{{fleet="{fleet.name}",metric="{metric.name}"}}'
    expression = f"last_over_time({selector}[{_duration(_reading_range(context, fleet))}])"
    return _chart(f"{fleet.name}: {metric.name}", _unit(metric.unit), _query(expression, "{{device}}"))


def _aggregate_expression(window: str, fleet: str, period: int) -> str:
    selector = f'sensorpipeline_aggregate{{window="{window}",fleet="{fleet}"}}'
    return f"last_over_time({selector}[{_duration(period)}])"


def _window(fleet: Fleet, window: Window) -> list[Any]:
    unit = _unit(
        window_unit(window.function, next(metric.unit for metric in fleet.metrics if metric.name == window.metric))
    )
    expression = _aggregate_expression(window.name, fleet.name, window.longest_seconds())
    title = f"{window.name} {fleet.name}: {window.function.value.lower()} of {window.metric}"
    return [
        _chart(title, unit, _query(expression, "{{device}}")),
        _table(f"{title} (table)", _query(expression, "{{device}}")),
    ]


def _sensors(context: Context) -> dashboard.Dashboard:
    built = dashboard.Dashboard(f"{context.name}: sensors").uid(f"{context.name}-sensors").tags(["sensorpipeline"])
    simulation = context.spec.simulation
    if simulation is not None:
        end = simulation.start_time + timedelta(days=SIMULATED_DAYS_SHOWN)
        built = built.time(simulation.start_time.isoformat(), end.isoformat())
    else:
        built = built.time("now-7d", "now").refresh("1m")
    for fleet in context.spec.fleets:
        built = built.with_row(dashboard.Row(fleet.name))
        for metric in fleet.metrics:
            built = built.with_panel(_reading(context, fleet, metric))
        for window in fleet.windows:
            for panel in _window(fleet, window):
                built = built.with_panel(panel)
    periods = {w.name: w.longest_seconds() for fleet in context.spec.fleets for w in fleet.windows}
    if context.derived:
        built = built.with_row(dashboard.Row("derived"))
    for plan in context.derived:
        period = periods[plan.metric.name] = max(periods[i.window] for i in plan.inputs)
        expression = _aggregate_expression(plan.metric.name, "derived", period)
        built = built.with_panel(_chart(plan.metric.name, _unit(plan.unit), _query(expression, "{{window}}")))
    return built


def _pipeline(context: Context) -> dashboard.Dashboard:
    built = dashboard.Dashboard(f"{context.name}: pipeline").uid(f"{context.name}-pipeline").tags(["sensorpipeline"])
    built = built.time("now-1h", "now").refresh("10s")
    rate = "sum by (fleet) (rate({}[1m]))"
    panels = [
        _chart("Messages received per second", "short",
               _query(rate.format("sensorpipeline_messages_received_total"), "{{fleet}}")),
        _chart("Readings stored per second", "short",
               _query(rate.format("sensorpipeline_stored_readings_total"), "{{fleet}}")),
        _chart("Lag", "s", _query("max by (fleet) (sensorpipeline_consumer_lag_seconds)", "{{fleet}}")),
        _chart("Publish to stored, 99th percentile", "s", _query(
            "histogram_quantile(0.99, sum by (le) (rate(sensorpipeline_end_to_end_seconds_bucket[5m])))", "p99")),
        _table("Rejected late readings",
               _query("sum by (fleet, window) (sensorpipeline_late_total)", "{{fleet}} {{window}}")),
        _table("Dead letters",
               _query("sum by (fleet, reason) (sensorpipeline_dead_letters_total)", "{{fleet}} {{reason}}")),
    ]  # fmt: skip
    for panel in panels:
        built = built.with_panel(panel)
    return built
