"""The operator: turns a SensorPipeline resource into a running telemetry pipeline."""
