"""Simulated devices: one pod with a small volume, so that a restarted simulation goes on where it was."""

import hashlib

from sensorpipeline_api.configuration import SimulatorConfiguration, SimulatorFleet

from sensorpipeline_operator.components.connections import mqtt_connection, mqtt_volumes
from sensorpipeline_operator.components.context import Context, Manifest
from sensorpipeline_operator.components.objects import (
    Pod,
    config_map,
    configuration_volume,
    credential_mount,
    hash_of,
    names,
    python_container,
    secret_volume,
    stateful_set,
)
from sensorpipeline_operator.components.secrets import Passwords, asks_for_credentials

REPLAY_DIRECTORY = "/etc/sensorpipeline-replay"
STATE_DIRECTORY = "/var/lib/sensorpipeline"


def build_simulators(context: Context, passwords: Passwords) -> list[Manifest]:
    """Returns the simulator's objects, or none when nothing is simulated."""
    simulation = context.spec.simulation
    if simulation is None:
        return []
    made = names(context)
    used = {device.fleet for device in simulation.devices}
    fleets = [fleet for fleet in context.spec.fleets if fleet.name in used]
    configuration = SimulatorConfiguration(
        pipeline=context.name,
        mqtt=mqtt_connection(context, bridge=False),
        fleets=[
            SimulatorFleet(
                fleet=fleet,
                credentials_directory=f"/etc/sensorpipeline-credentials/{_volume(fleet.name)}"
                if asks_for_credentials(context)
                else None,
            )
            for fleet in fleets
        ],
        start_time=simulation.start_time,
        acceleration_factor=simulation.acceleration_factor,
        duration_seconds=simulation.duration_seconds,
        devices=simulation.devices,
        replay_directory=REPLAY_DIRECTORY,
        state_directory=STATE_DIRECTORY,
        seed=int(hashlib.sha256(context.name.encode()).hexdigest()[:8], 16),
    )
    document = {"configuration.json": configuration.dump()}
    mqtt_credentials, mqtt_mounts = mqtt_volumes(context, bridge=False)
    volumes = [configuration_volume(context, "simulator"), *mqtt_credentials]
    mounts: list[Manifest] = [{"name": "state", "mountPath": STATE_DIRECTORY}, *mqtt_mounts]
    if asks_for_credentials(context):
        volumes += [secret_volume(_volume(fleet.name), made.devices_secret(fleet.name)) for fleet in fleets]
        mounts += [credential_mount(_volume(fleet.name)) for fleet in fleets]
    recordings = sorted({device.replay.config_map_name for device in simulation.devices if device.replay})
    for number, name in enumerate(recordings):
        volumes.append({"name": f"replay-{number}", "configMap": {"name": name}})
        mounts.append({"name": f"replay-{number}", "mountPath": f"{REPLAY_DIRECTORY}/{name}", "readOnly": True})
    container = python_container(
        context, "simulator", ["sensorpipeline-simulators", "run"], image=context.images.simulators, cpu="10m",
        memory="64Mi", limit="256Mi", mounts=mounts, health=False,
    )  # fmt: skip
    container["readinessProbe"] = {"exec": {"command": ["test", "-f", "/tmp/ready"]}, "periodSeconds": 3}
    pod = Pod(
        containers=[container],
        volumes=volumes,
        configuration=[document, hash_of(passwords.devices)],
        exposes_metrics=True,
    )
    return [
        config_map(context, "simulator", document),
        stateful_set(
            context, "simulator", pod, replicas=1, service_name=made.child("metrics"), volumes={"state": "64Mi"}
        ),
    ]


def _volume(fleet: str) -> str:
    return f"devices-{fleet}"
