"""The command line: `sensorpipeline-workers COMPONENT` runs one component of the data plane.

Components are imported when they are named, so that none pays for the others' libraries.
"""

import importlib
import logging
import sys

COMPONENTS = {
    "bridge": "sensorpipeline_workers.bridge.main",
    "worker": "sensorpipeline_workers.stream.main",
    "derive": "sensorpipeline_workers.derive.main",
    "sink": "sensorpipeline_workers.sink.main",
    "gateway": "sensorpipeline_workers.gateway.main",
    "store-agent": "sensorpipeline_workers.store.main",
}


def main() -> None:
    """Runs the component named by the first argument until it is told to stop; exits 2 for an unknown name."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMPONENTS:
        sys.exit(f"usage: sensorpipeline-workers {{{'|'.join(COMPONENTS)}}} (got {name!r})")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    importlib.import_module(COMPONENTS[name]).run()


if __name__ == "__main__":
    main()
