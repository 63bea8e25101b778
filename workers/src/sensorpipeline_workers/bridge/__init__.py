"""MQTT to Kafka: nothing is acknowledged to a device before Kafka has it.

topics.py      topic templates: filters to subscribe to, devices and metrics in topics
arrivals.py    times for readings that carry none
decode.py      what a decoder is; formats/ compiles one for each payload format
packets.py     bytes from the broker to packets
connection.py  an MQTT 5 connection
carrier.py     from one session to Kafka: decode, batch, produce, acknowledge
emptying.py    a session, read until nothing waits in it
adoption.py    sessions of members that are gone for good
bridge.py      a member of the shared subscription, from start to drain
"""
