"""Prints a recording that a Python package ships (river's WaterFlow) as CSV with the columns time and value."""

import csv
import sys

from river.datasets import WaterFlow


def main() -> None:
    """Writes the CSV to standard output."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["time", "value"])
    for features, value in WaterFlow():
        writer.writerow([features["Time"].isoformat(), value])


if __name__ == "__main__":
    main()
