"""What holds for everything that is built: names, labels, security, secrets, and that the same input gives the same."""

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_api.spec import SensorPipelineSpec
from sensorpipeline_operator.components.context import Context, Images, Manifest
from sensorpipeline_operator.components.mosquitto import access_list, password_hash
from sensorpipeline_operator.components.registry import build_all
from sensorpipeline_operator.components.secrets import Passwords
from sensorpipeline_operator.naming import MAXIMUM, Names, fit
from sensorpipeline_operator.validation import validate

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = ["minimal.yaml", "building.yaml", "replay.yaml", "farm.yaml"]
IMAGES = Images(
    workers="workers:1", simulators="simulators:1", mosquitto="eclipse-mosquitto:1", kafka="apache/kafka:1",
    mongodb="mongo:1", prometheus="prom/prometheus:1", alertmanager="prom/alertmanager:1", grafana="grafana/grafana:1",
)  # fmt: skip


def context(name: str, secrets: dict[str, dict[str, str]] | None = None, **changes: Any) -> Context:
    documents = yaml.safe_load_all((ROOT / "examples" / name).read_text())
    document = next(d for d in documents if d["kind"] == "SensorPipeline")
    spec = SensorPipelineSpec.model_validate(document["spec"] | changes)
    numbers = itertools.count(1)
    return Context(
        name=document["metadata"]["name"], namespace="default", uid="uid-1", spec=spec, derived=validate(spec),
        images=IMAGES, secrets=secrets or {}, entropy=lambda: f"{next(numbers):040x}",
    )  # fmt: skip


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return [m for m in manifests if m["kind"] in {"Deployment", "StatefulSet"}]


def decoded(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    return {
        m["metadata"]["name"]: {k: base64.b64decode(v).decode() for k, v in m["data"].items()}
        for m in manifests
        if m["kind"] == "Secret"
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_object_has_a_fitting_name_and_the_labels_that_find_it(name: str) -> None:
    subject = context(name)
    seen = set()
    for manifest in build_all(subject):
        meta = manifest["metadata"]
        assert len(meta["name"]) <= MAXIMUM
        assert meta["labels"]["app.kubernetes.io/instance"] == subject.name
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "sensorpipeline-operator"
        assert (manifest["kind"], meta["name"]) not in seen
        seen.add((manifest["kind"], meta["name"]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_pod_is_restricted_bounded_and_probed(name: str) -> None:
    for workload in workloads(build_all(context(name))):
        spec = workload["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert container["command"]
        probed = [c for c in spec["containers"] if "readinessProbe" in c]
        assert probed, workload["metadata"]["name"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_same_input_gives_the_same_objects_and_existing_passwords_are_kept(name: str) -> None:
    first = build_all(context(name))
    assert build_all(context(name)) == first

    def no_entropy() -> str:
        raise AssertionError("a new password was asked for though all exist")

    again = context(name, decoded(first))
    frozen = Context(**{**{f: getattr(again, f) for f in again.__dataclass_fields__}, "entropy": no_entropy})
    assert build_all(frozen) == first


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_password_is_anywhere_but_in_secrets(name: str) -> None:
    manifests = build_all(context(name))
    passwords = {v for data in decoded(manifests).values() for k, v in data.items() if len(v) == 40}
    assert len(passwords) > 10
    rest = json.dumps([m for m in manifests if m["kind"] != "Secret"])
    assert not [password for password in passwords if password in rest]


def test_each_part_mounts_its_own_credentials_alone() -> None:
    for workload in workloads(build_all(context("building.yaml"))):
        component = workload["metadata"]["labels"]["app.kubernetes.io/component"]
        for volume in workload["spec"]["template"]["spec"]["volumes"]:
            if volume.get("secret", {}).get("secretName") == "building-kafka-users":
                assert [item["key"] for item in volume["secret"]["items"]] == [component]


def test_changed_configuration_rolls_the_pods_that_use_it_and_no_others() -> None:
    def hashes(**changes: Any) -> dict[str, str]:
        return {
            w["metadata"]["name"]: w["spec"]["template"]["metadata"]["annotations"][
                "sensorpipeline.io/configuration-hash"
            ]
            for w in workloads(build_all(context("building.yaml", **changes)))
        }

    before = hashes()
    after = hashes(store={"mongodb": {}, "readingRetentionDays": 7})
    assert {name for name in before if before[name] != after[name]} == {"building-mongodb"}


def test_scaling_a_fleet_changes_the_number_of_its_workers_and_nothing_else() -> None:
    before = build_all(context("building.yaml"))
    document = yaml.safe_load((ROOT / "examples" / "building.yaml").read_text())
    fleets = document["spec"]["fleets"]
    fleets[0]["workers"] = {"minReplicas": 3}
    after = build_all(context("building.yaml", fleets=fleets))
    changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert [other["metadata"]["name"] for _, other in changed] == [f"building-worker-{fleets[0]['name']}"]
    assert [one["spec"] | {"replicas": 3} for one, _ in changed] == [other["spec"] for _, other in changed]


def test_what_is_absent_from_the_spec_is_not_built() -> None:
    names = {m["metadata"]["name"] for m in build_all(context("minimal.yaml"))}
    absent = {"minimal-alertmanager", "minimal-grafana", "minimal-simulator", "minimal-derive"}
    built = {m["metadata"]["name"] for m in workloads(build_all(context("minimal.yaml")))}
    assert not absent & built
    assert {"minimal-kafka", "minimal-mongodb", "minimal-mosquitto", "minimal-worker-rooms"} <= names


def test_a_device_may_write_its_own_topic_and_nothing_else() -> None:
    subject = context("building.yaml")
    text = access_list(subject, Passwords(subject))
    users = {block.splitlines()[0].split()[1]: block.splitlines()[1:] for block in text.split("\n\n") if block.strip()}
    assert users["HVAC1"] == ["topic write building/HVAC1/energy"]
    assert users["bridge"] == ["topic read sensorpipeline/guard"] + [f"topic read building/+/{what}" for what in
                               ("temperature", "energy", "water", "motion", "total")]  # fmt: skip
    assert "topic readwrite" not in text


def by_name(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    return {(m["kind"], m["metadata"]["name"]): m for m in manifests}


def document(manifests: list[Manifest], component: str) -> dict[str, Any]:
    found = by_name(manifests)["ConfigMap", f"building-{component}"]
    loaded: dict[str, Any] = json.loads(found["data"]["configuration.json"])
    return loaded


def test_an_external_broker_is_reached_with_its_own_credentials_and_none_is_built() -> None:
    external = {"host": "mqtt.example.org", "credentialsSecretName": "user", "caSecretName": "authority"}
    built = build_all(context("building.yaml", mqtt={"external": external}))
    assert not [m for m in built if "mosquitto" in m["metadata"]["name"] and m["kind"] != "NetworkPolicy"]
    for component, name in (("bridge", "building-bridge"), ("simulator", "building-simulator")):
        connection = document(built, component)["mqtt"]
        assert (connection["host"], connection["port"], connection["tls"]) == ("mqtt.example.org", 8883, True)
        pod = by_name(built)["StatefulSet", name]["spec"]["template"]["spec"]
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        secrets = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
        assert connection["usernameFile"] == f"{mounts['mqtt']}/username"
        assert connection["passwordFile"] == f"{mounts['mqtt']}/password"
        assert connection["caFile"] == f"{mounts['mqtt-ca']}/ca.crt"
        assert (secrets["mqtt"], secrets["mqtt-ca"]) == ("user", "authority")


def test_with_tls_devices_are_offered_no_other_way_in() -> None:
    built = by_name(build_all(context("building.yaml", mqtt={"mosquitto": {"tls": {"issuerRef": {"name": "ca"}}}})))
    assert [p["port"] for p in built["Service", "building-mosquitto"]["spec"]["ports"]] == [8883]
    ingress = built["NetworkPolicy", "building-mosquitto"]["spec"]["ingress"]
    assert {rule["ports"][0]["port"]: "from" in rule for rule in ingress} == {8883: False, 1883: True}
    certificate = built["Certificate", "building-mosquitto"]["spec"]
    assert certificate["issuerRef"]["name"] == "ca"
    assert "building-mosquitto.default.svc" in certificate["dnsNames"]
    volumes = built["StatefulSet", "building-mosquitto"]["spec"]["template"]["spec"]["volumes"]
    assert certificate["secretName"] in {v.get("secret", {}).get("secretName") for v in volumes}
    assert "building-mosquitto-internal" in document(list(built.values()), "bridge")["mqtt"]["host"]


def hash_in(manifests: list[Manifest], name: str) -> str:
    annotations = by_name(manifests)["StatefulSet", name]["spec"]["template"]["metadata"]["annotations"]
    return str(annotations["sensorpipeline.io/configuration-hash"])


def test_a_new_password_or_device_does_not_restart_the_broker_and_a_new_fleet_does() -> None:
    def spec(**fleet: Any) -> dict[str, Any]:
        return {"fleets": [{"name": "rooms", "topic": "rooms/{device}/t", "metrics": [{"name": "t"}]} | fleet]}

    first = hash_in(build_all(context("minimal.yaml", **spec(devices=["a"]))), "minimal-mosquitto")
    rotated = context("minimal.yaml", {"minimal-devices-rooms": {"a": "other"}}, **spec(devices=["a"]))
    assert hash_in(build_all(rotated), "minimal-mosquitto") == first
    assert hash_in(build_all(context("minimal.yaml", **spec(devices=["a", "b"]))), "minimal-mosquitto") == first
    assert hash_in(build_all(context("minimal.yaml", **spec(topic="r/{device}/t"))), "minimal-mosquitto") != first


def test_more_bridges_restart_none_and_share_a_budget() -> None:
    one = build_all(context("building.yaml"))
    three = build_all(context("building.yaml", bridge={"replicas": 3, "batchMaximumReadings": 500}))
    assert hash_in(one, "building-bridge") == hash_in(three, "building-bridge")
    assert by_name(three)["StatefulSet", "building-bridge"]["spec"]["replicas"] == 3
    assert document(three, "bridge")["replicas"] == 3
    assert ("PodDisruptionBudget", "building-bridge") in by_name(three)
    assert ("PodDisruptionBudget", "building-bridge") not in by_name(one)
    faster = build_all(context("building.yaml", bridge={"batchMaximumMilliseconds": 5}))
    assert hash_in(one, "building-bridge") != hash_in(faster, "building-bridge")


def test_a_fleet_without_a_list_has_one_user_that_may_write_as_any_device() -> None:
    subject = context("minimal.yaml")
    assert "user rooms\ntopic write rooms/+/temperature" in access_list(subject, Passwords(subject))


@pytest.mark.parametrize(
    ("mqtt", "gateway", "wanted"),
    [("Credentials", "Token", True), ("Credentials", "None", True), ("None", "Token", True), ("None", "None", False)],
)
def test_devices_have_passwords_where_mqtt_or_the_gateway_asks_for_them(mqtt: str, gateway: str, wanted: bool) -> None:
    built = build_all(
        context("farm.yaml", mqtt={"mosquitto": {"authentication": mqtt}}, gateway={"authentication": gateway})
    )
    secrets = decoded(built)
    assert ("farm-devices-field" in secrets) == wanted
    assert not wanted or secrets["farm-devices-field"].keys() == {"soil-1", "soil-2", "weather"}
    (deployment,) = [m for m in workloads(built) if m["metadata"]["name"] == "farm-gateway"]
    spec = deployment["spec"]["template"]["spec"]
    mounted = [v["name"] for v in spec["volumes"] if v.get("secret", {}).get("secretName") == "farm-devices-field"]
    assert mounted == (["devices-field"] if gateway == "Token" else [])
    mounts = {m["name"]: m for m in spec["containers"][0]["volumeMounts"]}
    assert all(mounts[name]["readOnly"] for name in mounted)


def test_a_devices_new_password_rolls_no_gateway() -> None:
    """The gateway reads its files again; a hash that covered them would end connections for nothing."""

    def gateway(password: str) -> Manifest:
        built = build_all(context("farm.yaml", secrets={"farm-devices-field": {"soil-1": password}}))
        return next(m for m in workloads(built) if m["metadata"]["name"] == "farm-gateway")

    assert gateway("a") == gateway("b")


def test_password_hashes_are_what_mosquitto_expects() -> None:
    """PBKDF2-HMAC-SHA512, 1000 rounds, 12 bytes of salt, 64 of hash; a different password gives a different hash."""
    kind, rounds, salt, digest = password_hash("u", "p").strip("$").split("$")
    assert (kind, rounds, len(base64.b64decode(salt)), len(base64.b64decode(digest))) == ("7", "1000", 12, 64)
    assert password_hash("u", "p") != password_hash("u", "q")


@given(st.text("abcdefghij-", min_size=1, max_size=120), st.text("abcdefghij-", min_size=1, max_size=120))
def test_long_names_are_cut_and_stay_different(one: str, other: str) -> None:
    assert len(fit(one)) <= MAXIMUM
    assert (fit(one) == fit(other)) == (one == other)


def test_names_of_members_are_those_of_the_stateful_sets_pods() -> None:
    names = Names("p", "n")
    assert names.member_hosts("kafka", "kafka-brokers", 2) == [
        "p-kafka-0.p-kafka-brokers.n.svc",
        "p-kafka-1.p-kafka-brokers.n.svc",
    ]


def test_the_building_is_built_as_the_golden_file_says(request: pytest.FixtureRequest) -> None:
    text = yaml.safe_dump_all(build_all(context("building.yaml")), sort_keys=True)
    golden = GOLDEN / "building.yaml"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text(), "run `make update-golden` and look at the difference"


def test_a_changed_retention_of_kafka_restarts_no_broker() -> None:
    """It is a setting of each topic."""

    def kafka(hours: int) -> list[Manifest]:
        built = build_all(context("building.yaml", kafka={"cluster": {"retentionHours": hours}}))
        return [m for m in built if m["metadata"]["name"] == "building-kafka"]

    assert kafka(24) == kafka(48)


@pytest.mark.parametrize("secret", [("building-grafana", "admin-password"), ("building-prometheus", "password")])
def test_a_rotated_password_that_grafana_reads_at_its_start_rolls_it(secret: tuple[str, str]) -> None:
    def annotations(secrets: dict[str, dict[str, str]]) -> dict[str, str]:
        built = workloads(build_all(context("building.yaml", secrets)))
        found = next(w for w in built if w["metadata"]["name"] == "building-grafana")
        annotations: dict[str, str] = found["spec"]["template"]["metadata"]["annotations"]
        return annotations

    kept = decoded(build_all(context("building.yaml")))
    before = annotations(kept)
    name, key = secret
    assert annotations(kept | {name: kept[name] | {key: "rotated"}}) != before
