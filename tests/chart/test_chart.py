"""The chart and what the operator renders, judged by the tools of their makers."""

import base64
import itertools
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart.schemas import write_schemas
from sensorpipeline_api.spec import SensorPipelineSpec
from sensorpipeline_operator.components.context import Context, Images, Manifest
from sensorpipeline_operator.components.registry import build_all
from sensorpipeline_operator.validation import validate

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sensorpipeline-operator"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sensorpipeline"
VERSIONS = tomllib.loads((ROOT / "versions.toml").read_text())
KUBERNETES = VERSIONS["kubernetes"]["version"]
DEBIAN_TOOLS = CACHE / "binaries" / "debian-prometheus"


def tool(name: str) -> Path:
    """Returns the path of a program that install.sh has put into the cache."""
    return CACHE / "binaries" / f"{name}-v{VERSIONS['tools'][name]}" / name


def run(*command: str | Path, stdin: str | None = None, cwd: Path | None = None) -> str:
    """Runs a program; fails with everything it said when it fails."""
    result = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, cwd=cwd, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with kubeconform's schemas."""
    directory = tmp_path_factory.mktemp("schemas")
    write_schemas(CACHE / "schemas" / f"kubernetes-v{VERSIONS['kubernetes']['version']}" / "swagger.json", directory)
    return directory


def conform(text: str, schemas: Path) -> None:
    """Validates YAML documents strictly."""
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    run(tool("kubeconform"), "-strict", "-schema-location", location, "-summary", "-", stdin=text)


def spec_of(name: str) -> dict[str, Any]:
    """Returns the SensorPipeline of an example."""
    documents = yaml.safe_load_all((ROOT / "examples" / name).read_text())
    return next(d for d in documents if d and d["kind"] == "SensorPipeline")


def built(name: str, **changes: Any) -> list[Manifest]:
    """Returns what the operator builds for an example."""
    document = spec_of(name)
    spec = SensorPipelineSpec.model_validate(document["spec"] | changes)
    numbers = itertools.count()
    urls = {"url": "http://hooks.example.org/x"}
    context = Context(
        name=document["metadata"]["name"], namespace="default", uid="0000-1", spec=spec, derived=validate(spec),
        images=Images(**{n: i for n, i in VERSIONS["images"].items() if n != "python"}, workers="w", simulators="s"),
        secrets={"hooks": urls}, entropy=lambda: f"{next(numbers):040x}",
    )  # fmt: skip
    return build_all(context)


def file_of(manifests: list[Manifest], kind: str, name: str, key: str) -> str:
    """Returns a file of a ConfigMap or Secret."""
    data = next(m["data"] for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)
    return base64.b64decode(data[key]).decode() if kind == "Secret" else str(data[key])


def test_helm_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in run(tool("helm"), "lint", "--strict", CHART)


@pytest.mark.parametrize("values", ["", "replicas=2", "crds.install=false", "watchNamespaces={a,b}"])
def test_the_rendered_chart_conforms_to_kubernetes_schemas(schemas: Path, values: str) -> None:
    options = ["--set", values] if values else []
    conform(
        run(tool("helm"), "template", "sensorpipeline", CHART, "-n", "system", "--kube-version", KUBERNETES, *options),
        schemas,
    )


def test_helm_unittest_passes() -> None:
    run(tool("helm-unittest"), CHART, "-f", "tests/*_test.yaml")


@pytest.mark.parametrize("name", ["minimal.yaml", "building.yaml", "replay.yaml"])
def test_the_examples_conform_to_our_schema(schemas: Path, name: str) -> None:
    conform((ROOT / "examples" / name).read_text(), schemas)


def test_a_misspelt_field_does_not_conform_to_our_schema(schemas: Path) -> None:
    text = (ROOT / "examples" / "minimal.yaml").read_text().replace("periodSeconds", "periodSecond")
    with pytest.raises(AssertionError, match="periodSecond"):
        conform(text, schemas)


@pytest.mark.parametrize("name", ["minimal.yaml", "building.yaml", "replay.yaml"])
def test_everything_the_operator_builds_conforms_to_kubernetes_schemas(schemas: Path, name: str) -> None:
    conform(yaml.safe_dump_all(built(name)), schemas)


def test_the_charts_default_images_are_the_pinned_versions() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["images"]
    pinned = {name: image for name, image in VERSIONS["images"].items() if name != "python"}
    assert {name: defaults[name] for name in pinned} == pinned


def test_promtool_accepts_the_rules_and_they_fire_while_the_alert_is_active(tmp_path: Path) -> None:
    rules = file_of(built("building.yaml"), "ConfigMap", "building-prometheus", "rules.yaml")
    (tmp_path / "rules.yaml").write_text(rules)
    promtool = DEBIAN_TOOLS / "promtool"
    assert "SUCCESS" in run(promtool, "check", "rules", tmp_path / "rules.yaml")
    series = 'sensorpipeline_device_alert{fleet="hvac",device="HVAC2",threshold="Overload",severity="Critical"}'
    labels = {
        "fleet": "hvac", "device": "HVAC2", "threshold": "Overload", "severity": "Critical", "pipeline": "building",
    }  # fmt: skip
    annotations = {
        "summary": "HVAC2: energy is above 195 Wh",
        "description": "Threshold Overload of fleet hvac in pipeline building.",
    }
    alert = {"exp_labels": labels, "exp_annotations": annotations}
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "10s",
        "tests": [
            {
                "interval": "10s",
                "input_series": [{"series": series, "values": "0 0 1 1 0 0 0 0 0 0"}],
                "alert_rule_test": [
                    {"eval_time": "10s", "alertname": "Overload", "exp_alerts": []},
                    {"eval_time": "20s", "alertname": "Overload", "exp_alerts": [alert]},
                    {"eval_time": "90s", "alertname": "Overload", "exp_alerts": []},
                ],
            }
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    run(promtool, "test", "rules", "tests.yaml", cwd=tmp_path)


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    text = file_of(built("building.yaml"), "ConfigMap", "building-prometheus", "prometheus.yaml")
    (tmp_path / "prometheus.yaml").write_text(text)
    run(DEBIAN_TOOLS / "promtool", "check", "config", "--syntax-only", tmp_path / "prometheus.yaml")


RECEIVERS = [
    {"name": "chat", "discord": {"urlSecretRef": {"name": "hooks", "key": "url"}}, "severities": ["Critical"]},
    {"name": "team", "slack": {"urlSecretRef": {"name": "hooks", "key": "url"}, "channel": "#alerts"}},
    {"name": "pager", "webhook": {"urlSecretRef": {"name": "hooks", "key": "url"}}, "severities": ["Warning"]},
]


def test_amtool_accepts_the_routing_and_severities_reach_their_receivers(tmp_path: Path) -> None:
    manifests = built("building.yaml", alerting={"receivers": RECEIVERS})
    text = file_of(manifests, "Secret", "building-alertmanager", "alertmanager.yaml")
    path = tmp_path / "alertmanager.yaml"
    path.write_text(text)
    amtool = DEBIAN_TOOLS / "amtool"
    assert "SUCCESS" in run(amtool, "check-config", path)
    for severity, receivers in (("Critical", "chat,team"), ("Warning", "team,pager"), ("Information", "nobody")):
        found = run(amtool, "config", "routes", "test", f"--config.file={path}", f"severity={severity}")
        assert found.strip() == receivers
