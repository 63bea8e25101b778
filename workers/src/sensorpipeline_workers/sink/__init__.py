"""Kafka to MongoDB: everything written before it is committed, nothing written twice.

documents.py  records to documents (pure)
writer.py     documents to collections
sink.py       the loop around them
"""
