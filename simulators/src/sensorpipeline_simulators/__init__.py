"""Simulated devices that publish over MQTT and keep a ledger of what the broker acknowledged."""
