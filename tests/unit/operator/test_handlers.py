"""Events of pipelines, in the orders in which they can come."""

import asyncio
from typing import Any

import pytest
from sensorpipeline_operator.handlers import Operator
from sensorpipeline_operator.reconcile import Outcome
from sensorpipeline_operator.settings import Settings


class Subject(Operator):
    """An operator whose visits do nothing but count, and which leads."""

    def __init__(self) -> None:
        super().__init__(Settings(images={}))
        self.visits = 0
        self._leadership.leads.set()

    async def _visit(self, key: Any) -> Outcome:
        self.visits += 1
        return Outcome()


@pytest.fixture
def subject() -> Subject:
    return Subject()


def body(uid: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": "building", "uid": uid}}


async def test_a_deletion_that_comes_late_does_not_end_the_visits_to_the_new_pipeline(subject: Subject) -> None:
    subject.pipeline_event(body("old"), None)
    subject.pipeline_event(body("new"), "ADDED")
    subject.pipeline_event(body("old"), "DELETED")
    await asyncio.sleep(0.05)
    visits = subject.visits
    subject.child_event({"metadata": {"namespace": "default", "labels": {"app.kubernetes.io/instance": "building"}}})
    await asyncio.sleep(0.3)
    assert subject.visits > visits
    subject.pipeline_event(body("new"), "DELETED")


async def test_a_deleted_pipeline_is_visited_no_more(subject: Subject) -> None:
    subject.pipeline_event(body("old"), "ADDED")
    await asyncio.sleep(0.05)
    visits = subject.visits
    subject.pipeline_event(body("old"), "DELETED")
    subject.child_event({"metadata": {"namespace": "default", "labels": {"app.kubernetes.io/instance": "building"}}})
    await asyncio.sleep(0.3)
    assert subject.visits == visits
