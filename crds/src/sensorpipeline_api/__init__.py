"""The contract between all parts: the resource, the records on Kafka, and the components' configuration documents.

`spec.py` is the single source of the custom resource definition (`crds/sensorpipelines.yaml` is generated from it).
"""
