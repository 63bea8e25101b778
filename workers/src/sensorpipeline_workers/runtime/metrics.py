"""The data plane's Prometheus metrics, each declared once: names are the project's contract.

Counters are created when the component that counts them names them, so each process exposes its own alone.
"""

from prometheus_client import Counter, Gauge, Histogram

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def messages_received() -> Counter:
    """Messages taken in, MQTT or HTTP."""
    return Counter("sensorpipeline_messages_received", "Messages received.", ["fleet"])


def readings() -> Counter:
    """Readings found in messages that were accepted, counted when Kafka has them."""
    return Counter("sensorpipeline_readings", "Readings accepted into Kafka.", ["fleet"])


def dead_letters() -> Counter:
    """Messages that ended as a dead letter, counted when Kafka has them."""
    return Counter("sensorpipeline_dead_letters", "Messages dead-lettered.", ["fleet", "reason"])


def late() -> Counter:
    """Readings that a window refused as too late."""
    return Counter("sensorpipeline_late", "Readings that a window refused as too late.", ["fleet", "window"])


def aggregates_emitted() -> Counter:
    """Window results emitted, revisions included."""
    return Counter("sensorpipeline_aggregates_emitted", "Window results emitted.", ["fleet", "window"])


def processing_seconds() -> Histogram:
    """Time to process one batch, flush included."""
    return Histogram("sensorpipeline_processing_seconds", "Time to process one batch.", buckets=BUCKETS)


def series() -> Gauge:
    """Series whose state this worker holds."""
    return Gauge("sensorpipeline_series", "Series whose state this worker holds.", ["fleet"])


def state_bytes() -> Gauge:
    """Stored size of the states this worker holds, as of their last flush."""
    return Gauge("sensorpipeline_state_bytes", "Stored size of the states this worker holds.", ["fleet"])


def consumer_lag_seconds() -> Gauge:
    """Age, by the clock, of the oldest record not yet processed; 0 when there is none."""
    return Gauge("sensorpipeline_consumer_lag_seconds", "Age of the oldest unprocessed record.", ["fleet"])


def end_to_end_seconds() -> Histogram:
    """Time from the publication of a record to Kafka until it is stored."""
    return Histogram("sensorpipeline_end_to_end_seconds", "Time from publish to stored.", buckets=BUCKETS)


def device_alert() -> Gauge:
    """1 while an alert is active, else 0."""
    return Gauge(
        "sensorpipeline_device_alert", "1 while the alert is active.", ["fleet", "device", "threshold", "severity"]
    )


def stored_readings() -> Counter:
    """Readings written to the store."""
    return Counter("sensorpipeline_stored_readings", "Readings written to the store.", ["fleet"])


def duplicate_readings() -> Counter:
    """Readings not written because a reading of the same series and time is stored: the first one stays."""
    return Counter("sensorpipeline_duplicate_readings", "Readings found to be stored already.", ["fleet"])


def stored_documents() -> Counter:
    """Documents other than readings written to the store, revisions of aggregates included."""
    return Counter("sensorpipeline_stored_documents", "Documents written to the store.", ["collection"])
