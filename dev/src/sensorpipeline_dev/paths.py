"""Where things are: the project's own files and the cache. One module, so that no other spells a path."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
DEV = PROJECT / "dev"
IMAGES = DEV / "images"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sensorpipeline"
LOGS = CACHE / "log"
BUILDS = CACHE / "build"
BINARIES = CACHE / "binaries"
IMAGE_VALUES = CACHE / "values-images.yaml"
