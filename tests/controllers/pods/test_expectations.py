"""A write's echo from the watch is told from a change by somebody else."""

from dataclasses import replace

import pytest

from app.cluster.pods import RunningPod, running_pod
from app.controllers.pods.expectations import OwnWrites
from app.core.kubevirt_names import UPSTREAM
from app.kube.store import ObjectStore
from tests.infra.factories import NAMESPACE, make_pod

KEY = (NAMESPACE, "db")
WRITTEN = {"a": "written"}


def pod(version: str, annotations: dict[str, str] | None = None) -> RunningPod:
    item = make_pod(name="db", annotations=annotations or {})
    item["metadata"] |= {"uid": "pod-db", "resourceVersion": version}
    found = running_pod(item, UPSTREAM)
    assert found
    return found


BEFORE = pod("1")
AFTER = replace(BEFORE, view=replace(BEFORE.view, annotations=WRITTEN), resource_version="2")
OTHER = replace(AFTER, view=replace(AFTER.view, labels={"by": "somebody"}), resource_version="3")


@pytest.fixture
def pods() -> ObjectStore[RunningPod]:
    pods: ObjectStore[RunningPod] = ObjectStore()
    pods.put(KEY, BEFORE)
    return pods


@pytest.fixture
def writes(pods: ObjectStore[RunningPod]) -> OwnWrites:
    """After a write to the pod."""
    writes = OwnWrites(pods)
    writes.add(KEY, BEFORE, BEFORE, WRITTEN)
    return writes


def test_what_was_written_is_an_echo_once(writes: OwnWrites) -> None:
    assert writes.is_echo(KEY, BEFORE, AFTER)
    assert not writes.is_echo(KEY, BEFORE, AFTER)
    assert len(writes) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(BEFORE, OTHER, id="more-was-changed"),
        pytest.param(BEFORE, pod("2", {"a": "other"}), id="other-annotations"),
        pytest.param(None, AFTER, id="a-pod-that-was-not-known"),
    ],
)
def test_anything_else_is_no_echo(writes: OwnWrites, old: RunningPod | None, new: RunningPod) -> None:
    assert not writes.is_echo(KEY, old, new)


def test_another_pod_has_no_echo(writes: OwnWrites) -> None:
    assert not writes.is_echo((NAMESPACE, "web"), BEFORE, AFTER)


def test_a_write_is_pending_until_the_pod_has_another_version(writes: OwnWrites) -> None:
    assert writes.is_pending(KEY, BEFORE)
    assert not writes.is_pending(KEY, AFTER)
    assert not writes.is_pending(KEY, BEFORE), "it is forgotten"


def test_the_echo_counts_as_a_change_if_the_pod_was_looked_at_meanwhile(writes: OwnWrites) -> None:
    assert writes.is_pending(KEY, BEFORE)
    assert not writes.is_echo(KEY, BEFORE, AFTER)


def test_a_pod_that_was_read_before_the_write_is_pending_in_the_version_that_the_store_holds(
    pods: ObjectStore[RunningPod],
) -> None:
    writes = OwnWrites(pods)
    writes.add(KEY, AFTER, BEFORE, WRITTEN)
    assert writes.is_pending(KEY, BEFORE)
    assert writes.is_pending(KEY, AFTER)
    assert not writes.is_pending(KEY, OTHER)


def test_a_write_whose_version_is_gone_from_the_store_was_not_heard_of(
    writes: OwnWrites, pods: ObjectStore[RunningPod]
) -> None:
    assert list(writes.unheard()) == []
    pods.put(KEY, replace(BEFORE, resource_version="3"))
    assert list(writes.unheard()) == [KEY]
    pods.put(KEY, None)
    assert list(writes.unheard()) == []


def test_a_pod_that_is_deleted_is_forgotten(writes: OwnWrites) -> None:
    writes.forget(KEY)
    assert len(writes) == 0
    assert not writes.is_pending(KEY, BEFORE)
