"""Runs libFuzzer on the record decoder, guided by the coverage of our own code."""

import json
import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris

with atheris.instrument_imports(include=["sensorpipeline_workers", "sensorpipeline_api.records", "record_decoder"]):
    import record_decoder


def main() -> None:
    """Runs until it finds something, or for as long as libFuzzer's options say."""
    corpus = Path(mkdtemp(prefix="record-decoder-"))
    for number, seed in enumerate(record_decoder.SEEDS):
        (corpus / str(number)).write_text(json.dumps(seed))
    atheris.Setup([*sys.argv, str(corpus)], lambda data: record_decoder.check(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
