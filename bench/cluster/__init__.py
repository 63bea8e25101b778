"""End-to-end throughput of a whole pipeline on the local cluster, publishers included.

measure.py    applies the pipeline, runs the publisher's pod, observes, reports
publisher.py  runs in the pod: publishes with QoS 1 as fast as the broker acknowledges
pipeline.yaml the pipeline under load: windows, a threshold and storage
"""
