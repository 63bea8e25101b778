"""The HTTP interface: readings taken in, queries over MongoDB, the live stream from Kafka, Prometheus' remote read.

main.py         configuration in, server running
application.py  the FastAPI application and its routes
security.py     the bearer token of queries
problems.py     errors as application/problem+json
openapi.py      what the OpenAPI document says of errors and bodies
intake.py       POST /v1/readings
devices.py      the tokens of devices and fleets
bodies.py       bodies of requests, read within bounds
posted.py       a request's body to readings, or to the reasons why not (pure)
rate.py         how fast a client may post (pure)
outbox.py       records on their way to Kafka
store.py        questions to the store, bounded in time
queries.py      parameters to MongoDB queries, documents to items, cursors (pure)
live.py         server-sent events from Kafka
remote_read.py  Prometheus' remote read protocol
"""
