"""What MQTT and HTTP ingest share.

validation.py  what a reading must fulfil, and the reason when it does not
batch.py       readings to records of one partition each
"""
