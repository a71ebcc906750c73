"""Metadata is read without what nobody looks at, and odd answers as well as ever."""

import json
from typing import Any

import orjson
import pytest

from app.cluster.pods import running_pod
from app.core.kubevirt_names import UPSTREAM
from app.core.objects import NamespaceView, VirtualMachineInstanceView, VirtualMachineView
from app.kube.partial import read_event, read_page
from tests.infra.factories import RECORDED

POD: dict[str, Any] = {"metadata": {**RECORDED["plain"]["metadata"], "resourceVersion": "7", "uid": "u", "name": "p"}}
VM = {
    "metadata": {
        "name": "db",
        "namespace": "shop",
        "uid": "1",
        "resourceVersion": "8",
        "annotations": {"vm-consistency.io/level": "crash", "kubevirt.io/skip-backup-hooks": "true"},
        "labels": {"app": "db"},
        "ownerReferences": [{"apiVersion": "a/v1", "kind": "Pool", "name": "p", "uid": "2", "controller": True}],
        "finalizers": ["x"],
    }
}


def _page(*items: Any) -> bytes:
    return orjson.dumps({"kind": "List", "metadata": {"resourceVersion": "9", "continue": "more"}, "items": items})


@pytest.mark.parametrize("item", [POD, VM], ids=["pod", "machine"])
def test_views_are_the_same_as_of_the_whole_object(item: dict[str, Any]) -> None:
    page = read_page(_page(item))
    assert page is not None
    [read] = page["items"]
    event = read_event(orjson.dumps({"type": "ADDED", "object": item}))
    for found in (read, event["object"]):
        metadata = found["metadata"]
        assert running_pod(found, UPSTREAM) == running_pod(item, UPSTREAM)
        assert metadata["resourceVersion"] == item["metadata"]["resourceVersion"]
        for view in (NamespaceView, VirtualMachineView, VirtualMachineInstanceView):
            assert view.from_metadata(metadata) == view.from_metadata(item["metadata"])


def test_managed_fields_are_left_out() -> None:
    assert "managedFields" in POD["metadata"], "or else this would show nothing"
    page = read_page(_page(POD))
    assert page is not None
    assert "managedFields" not in page["items"][0]["metadata"]
    assert page["metadata"] == {"resourceVersion": "9", "continue": "more"}


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"metadata": {"name": "odd", "labels": {"a": 1}}}, id="label-that-is-no-string"),
        pytest.param({"metadata": None}, id="no-metadata"),
        pytest.param("text", id="no-object"),
    ],
)
def test_one_odd_object_does_not_cost_the_others(odd: Any) -> None:
    page = read_page(_page(VM, odd))
    assert page is not None
    assert page["items"][0]["metadata"]["name"] == "db"
    assert page["items"][1] == odd
    assert read_event(orjson.dumps({"type": "ADDED", "object": odd})) == {"type": "ADDED", "object": odd}


@pytest.mark.parametrize("content", [b"", b"[]", b'"text"', b"<html>"])
def test_what_is_no_object_is_no_page(content: bytes) -> None:
    assert read_page(content) is None


def test_null_stands_for_an_empty_list() -> None:
    page = read_page(b'{"metadata": {"resourceVersion": "1"}, "items": null}')
    assert page is not None
    assert not page["items"]


def test_an_error_is_read_whole() -> None:
    status = {"kind": "Status", "metadata": {}, "code": 410, "reason": "Expired", "message": "too old"}
    assert read_event(json.dumps({"type": "ERROR", "object": status}).encode())["object"] == status


def test_what_is_no_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        read_event(b"<html>")
