"""The event-time engine: pure functions from a series' state and readings to a new state and emissions.

No Kafka, no clock, no I/O: the same code runs in the worker, in tests and in a recompute.

    plan.py        what a fleet's spec asks for, compiled for one metric
    calendars.py   days and months of a time zone
    numbers.py     arithmetic with an answer for any finite readings
    panes.py       the content of a window, for each function the least that it needs
    seen.py        the times a series has sent, by which duplicates are recognised
    state.py       what is remembered of one series, and its versioned binary form (state_v1.py: the one before)
    windows.py     watermark, lateness, revisions, Difference, updates, rollups, idle close
    sessions.py    session windows
    thresholds.py  alert transitions
    grouping.py    the readings of a record, by series
    series.py      one series' readings in, emissions out: the entry point
    partition.py   the fleet's clock, shared by the series of a partition
"""
