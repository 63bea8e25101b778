"""The event-time engine: pure functions from a series' state and readings to a new state and emissions.

No Kafka, no clock, no I/O: the same code runs in the worker, in tests and in a recompute.

    plan.py        what a fleet's spec asks for, compiled for one metric
    state.py       what is remembered of one series, and its versioned binary form
    windows.py     tumbling windows: watermark, lateness, revisions, Difference, idle close
    thresholds.py  alert transitions
    series.py      one series' readings in, emissions out
"""
