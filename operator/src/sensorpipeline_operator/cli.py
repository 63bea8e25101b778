"""The command line: runs the operator."""

import logging

import kopf
from kopf._core.engines.peering import Identity

from sensorpipeline_operator.handlers import register
from sensorpipeline_operator.settings import Settings


def main() -> None:
    """Runs until SIGTERM."""
    settings = Settings.load()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for library in ("kopf", "kafka"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("kafka.net").setLevel(logging.ERROR)  # warns at each connection that SASL/PLAIN is plain
    registry = kopf.get_default_registry()
    register(registry, settings)
    kopf.run(
        registry=registry,
        standalone=True,
        identity=Identity(settings.pod_name),
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
    )


if __name__ == "__main__":
    main()
