"""The operator's settings: one file, parsed once into a frozen model."""

import os
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sensorpipeline_operator.components.context import Images

PATH_VARIABLE = "SENSORPIPELINE_OPERATOR_SETTINGS"
DEFAULT_PATH = "/etc/sensorpipeline-operator/settings.yaml"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Settings(_Settings):
    """What the chart sets."""

    images: dict[str, str]
    watch_namespaces: list[str] = Field([])
    reconcile_interval_seconds: int = Field(30, ge=5, le=3600)
    log_level: str = "INFO"
    pod_name: str = "operator"
    pod_namespace: str = "default"
    health_port: int = 8080

    @classmethod
    def load(cls) -> Self:
        """Reads the settings file, and the pod's name and namespace from the environment. Raises OSError or
        pydantic.ValidationError."""
        path = Path(os.environ.get(PATH_VARIABLE, DEFAULT_PATH))
        content = yaml.safe_load(path.read_text())
        pod = {"podName": os.environ.get("POD_NAME"), "podNamespace": os.environ.get("POD_NAMESPACE")}
        return cls.model_validate(content | {key: value for key, value in pod.items() if value})

    def component_images(self) -> Images:
        """Returns the images of the components. Raises TypeError when one is missing."""
        return Images(**{name: image for name, image in self.images.items() if name != "operator"})
