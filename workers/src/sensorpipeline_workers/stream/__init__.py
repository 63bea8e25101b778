"""The stream worker of a fleet: a Faust application around the event-time engine.

main.py         configuration in, worker running
application.py  Faust's application: its settings, tasks and rebalances
app.py          the worker: topics, state table, the agent, the flush loop
table.py        the state table: explicit partitions, read in bulk
processor.py    records in, engine, what is to be written at the next flush
store.py        the series of our partitions
progress.py     until when all readings have been read, and whether reading stands still
offsets.py      asks Kafka where partitions end
writer.py       results and states out, waited for
"""
