"""What becomes of a pod whose annotations are not what they should be."""

import logging

import pytest

from app.core.annotations import (
    DECIDED_BY,
    HOOKS_DIGEST,
    KUBEVIRT_HOOK_KEYS,
    MANAGED,
    MAX_ANNOTATIONS_BYTES,
    PRE,
    RECORD_KEYS,
)
from app.core.record import digest, is_intact
from tests.controllers.pods.reconciler.support import FILESYSTEM, ON_FILESYSTEM, TAMPERED
from tests.infra.stand_ins.cluster import StandInCluster
from tests.infra.virtual_time import in_virtual_time, pass_time


@in_virtual_time
async def test_a_pod_of_a_vm_that_becomes_unmanaged_is_handed_back_and_then_left_alone() -> None:
    cluster = StandInCluster({"default": {"level": "filesystem", "allow": ["filesystem", "unmanaged"]}})
    path = cluster.start_vm("db", in_line_with=ON_FILESYSTEM)
    async with cluster.leads():
        cluster.annotate_vm("db", {MANAGED: "false"})
        await pass_time()
        handed_back = cluster.annotations(path)
        assert not {*RECORD_KEYS} & handed_back.keys()
        assert set(KUBEVIRT_HOOK_KEYS) <= handed_back.keys()
        cluster.annotate_pod(path, TAMPERED)
        await pass_time(700)
        assert cluster.annotations(path) == {**handed_back, **TAMPERED}
    assert cluster.api.patches == ["db"]
    assert cluster.shown("pods") == {("unmanaged", "vm"): 1}
    assert cluster.writes("handed-back") == 1


@in_virtual_time
async def test_a_forged_record_with_a_matching_digest_is_corrected() -> None:
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        forged = {**cluster.annotations(path), PRE + "command": '["/bin/sh"]', DECIDED_BY: "vm\n" + "x" * 5000}
        cluster.annotate_pod(path, {**forged, HOOKS_DIGEST: digest(forged)})
        assert is_intact(cluster.annotations(path))
        await pass_time()
        assert cluster.decided(path) == ("filesystem", "default")
        assert cluster.annotations(path)[PRE + "command"] != '["/bin/sh"]'
    assert cluster.api.patches == ["db"]


@in_virtual_time
async def test_a_pod_without_room_for_its_record_loses_wrong_hooks_and_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "vm-consistency.reconciler")  # a record that is kept refers to its pod
    cluster = StandInCluster(FILESYSTEM)
    path = cluster.start_vm("db")
    async with cluster.leads():
        kept = {key: text for key, text in cluster.annotations(path).items() if key not in RECORD_KEYS}
        room = MAX_ANNOTATIONS_BYTES - sum(len(key) + len(text) for key, text in kept.items())
        notes = "x" * (room - 100)
        cluster.annotate_pod(path, {PRE + "command": "[]", "notes": notes, **dict.fromkeys(RECORD_KEYS)})
        await pass_time(3000)
        left = cluster.annotations(path)
        assert PRE + "command" not in left
        assert left["notes"] == notes
        assert cluster.shown("pods") == {("filesystem", "default"): 1}, "the level that it should have"
        cluster.api.remove(path)
        await pass_time()
    assert cluster.api.still_referred_to == set()
    assert cluster.api.patches == ["db"]
    assert cluster.recorder.reasons == ["HooksNotWritten"]
    assert cluster.writes("failed") == 1
    assert cluster.writes("overwritten") == 1
