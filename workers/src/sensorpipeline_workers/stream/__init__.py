"""The stream worker of a fleet: a Faust application around the event-time engine.

main.py      configuration in, worker running
app.py       the Faust application: topics, state table, the agent
table.py     the state table: explicit partitions, writes that can be waited for
processor.py records in, engine, what is to be written at the next flush
"""
