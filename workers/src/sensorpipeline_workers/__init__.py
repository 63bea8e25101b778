"""The data plane of a SensorPipeline: one package, one image, one command per component."""
