"""Two replicas of the operator: one leads, and when it is killed the other takes over."""

import time

from e2e import kube

NAMESPACE = "sensorpipeline-system"
DEPLOYMENT = "deployment/sensorpipeline-operator"
FAILOVER_SECONDS = 15


def holder() -> str:
    """Returns the pod that holds the Lease."""
    return str(kube.get("lease", "sensorpipeline-operator", namespace=NAMESPACE)["spec"]["holderIdentity"])


def pods() -> list[str]:
    """Returns the names of the operator's pods."""
    selector = "app.kubernetes.io/name=sensorpipeline-operator"
    return [pod["metadata"]["name"] for pod in kube.get_list("pods", namespace=NAMESPACE, selector=selector)]


def test_a_second_replica_takes_over_when_the_leader_is_killed() -> None:
    kube.kubectl("scale", DEPLOYMENT, "--replicas=2", namespace=NAMESPACE)
    try:
        kube.kubectl("rollout", "status", DEPLOYMENT, "--timeout=120s", namespace=NAMESPACE)
        leader = kube.until(lambda: holder() if holder() in pods() else None, what="a leader", seconds=30)
        begin = time.monotonic()
        kube.kubectl("delete", "pod", leader, "--grace-period=0", "--force", namespace=NAMESPACE)
        kube.until(lambda: holder() != leader, what="another leader", seconds=FAILOVER_SECONDS * 2, every=0.2)
        assert time.monotonic() - begin <= FAILOVER_SECONDS
    finally:
        kube.kubectl("scale", DEPLOYMENT, "--replicas=1", namespace=NAMESPACE)
        kube.kubectl("rollout", "status", DEPLOYMENT, "--timeout=120s", namespace=NAMESPACE)
