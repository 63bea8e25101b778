"""Kafka to MongoDB: everything written before it is committed, nothing written twice.

documents.py  records to BSON documents (pure)
batch.py      messages to one batch of readings by series and of upserts (pure)
frontier.py   which readings are surely new, which must be looked up (pure)
fence.py      a failed write cannot come into effect later
writer.py     a batch to collections
sink.py       the loop around them
"""
