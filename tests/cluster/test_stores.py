"""What is kept of an object's metadata."""

import sys

from app.cluster.stores import ClusterStores, shared
from app.core.kubevirt_names import UPSTREAM
from tests.infra.stand_ins.api_server import item


def test_labels_are_not_kept_for_good() -> None:
    value = "".join(["only-", "here"])  # made at run time: a literal is interned by the compiler
    labels = {"app": value}

    assert shared(item("db", 1, "team", labels=labels)["metadata"])["labels"]["app"] is value
    again = "".join(["only-", "here"])
    assert sys.intern(again) is again, "nobody interned an equal one before"


def test_a_namespace_keeps_its_labels() -> None:
    assert ClusterStores(UPSTREAM).namespace(item("team", labels={"tier": "data"})).labels == {"tier": "data"}
