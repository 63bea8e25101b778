"""MQTT to Kafka: nothing is acknowledged to a device before Kafka has it.

topics.py      topic templates: filters to subscribe to, devices and metrics in topics
decode.py      a message's bytes to readings, or to the reason why not
connection.py  an MQTT 5 connection
bridge.py      the loop around them
"""
