"""The HTTP interface: queries over MongoDB, the live stream from Kafka, Prometheus' remote read.

main.py         configuration in, server running
application.py  the FastAPI application and its routes
security.py     the bearer token
problems.py     errors as application/problem+json
queries.py      parameters to MongoDB queries, documents to items, cursors (pure)
live.py         server-sent events from Kafka
remote_read.py  Prometheus' remote read protocol
"""
