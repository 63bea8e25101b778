"""Who may do what: devices publish as themselves alone, and nobody gets in without credentials."""

import pymongo
import pymongo.errors
import pytest
import requests
from e2e import kube
from e2e.clients import RefusedError, gateway, prometheus, publisher


def test_a_device_cannot_publish_as_another_device(building_namespace: str) -> None:
    password = kube.secret_value("building-devices-hvac", "HVAC1", namespace=building_namespace)
    with (
        publisher("building", namespace=building_namespace, username="HVAC1", password=password) as client,
        pytest.raises(RefusedError, match=r"[Nn]ot authorized"),
    ):
        client.publish("building/HVAC2/energy", b'{"ts": 1577836800000, "value": 1}')


def test_a_wrong_password_is_refused(building_namespace: str) -> None:
    with (
        pytest.raises(RefusedError, match=r"[Nn]ot authorized|[Bb]ad user"),
        publisher("building", namespace=building_namespace, username="HVAC1", password="wrong"),
    ):
        pass


def test_an_anonymous_mqtt_client_is_refused(building_namespace: str) -> None:
    with (
        pytest.raises(RefusedError, match=r"[Nn]ot authorized"),
        publisher("building", namespace=building_namespace),
    ):
        pass


def test_an_anonymous_mongodb_client_is_refused(building_namespace: str) -> None:
    with kube.port_forward("svc/building-mongodb", 27017, namespace=building_namespace) as port:
        client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(
            "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=20000
        )
        with client, pytest.raises(pymongo.errors.OperationFailure, match=r"requires authentication"):
            client["building"]["readings"].find_one()


@pytest.mark.parametrize("path", ["/v1/readings", "/v1/aggregates", "/v1/devices", "/v1/dead-letters"])
def test_an_anonymous_http_client_is_refused_by_the_gateway(building_namespace: str, path: str) -> None:
    with gateway("building", namespace=building_namespace, token=False) as client:
        response = client.get(path)
    assert response.status_code == 401
    assert response.headers["content-type"].startswith("application/problem+json")


def test_an_anonymous_http_client_is_refused_by_prometheus(building_namespace: str) -> None:
    with prometheus("building", namespace=building_namespace) as (url, credentials):
        assert requests.get(f"{url}/api/v1/alerts", timeout=10).status_code == 401
        assert requests.get(f"{url}/api/v1/alerts", auth=credentials, timeout=10).status_code == 200


def test_no_secret_value_is_in_the_status_or_in_a_config_map(building_namespace: str) -> None:
    values = {
        kube.secret_value("building-gateway", "token", namespace=building_namespace),
        kube.secret_value("building-devices-hvac", "HVAC1", namespace=building_namespace),
    }
    text = kube.kubectl("get", "sensorpipelines,configmaps,statefulsets,deployments,pods", "-o", "json",
                        namespace=building_namespace)  # fmt: skip
    assert not [value for value in values if value in text]
