"""Running launcher pods as they are kept, and the index over them."""

from typing import Any

from app.cluster.pods import InstanceIndex, PodIndex, RunningPod, running_pod
from app.cluster.stores import ClusterStores
from app.core.kubevirt_names import UPSTREAM
from app.core.objects import SILENT, VirtualMachineInstanceView
from app.kube.store import Key, ObjectStore
from tests.infra.factories import NAMESPACE, UID, make_owner, make_pod


def _item(name: str = "pod", **metadata: Any) -> dict[str, Any]:
    pod = make_pod(**metadata)
    pod["metadata"] |= {"name": name, "uid": f"uid-of-{name}", "resourceVersion": "7"}
    return pod


def _kept(name: str = "pod", **metadata: Any) -> RunningPod:
    pod = running_pod(_item(name, **metadata), UPSTREAM)
    assert pod is not None
    return pod


def test_what_decisions_need_is_kept() -> None:
    annotations = {**make_pod()["metadata"]["annotations"], "example.com/notes": "ü" * 100}
    pod = _kept(annotations=annotations)
    assert (pod.uid, pod.resource_version, pod.view.name, pod.view.namespace) == ("uid-of-pod", "7", "pod", NAMESPACE)
    assert pod.view.annotations is not None
    assert "example.com/notes" not in pod.view.annotations
    assert pod.view.unread_bytes >= 200 + len("example.com/notes")
    assert pod.view.labels == make_pod()["metadata"]["labels"]


def test_pods_of_nobody_and_of_spared_namespaces_are_left_out() -> None:
    assert running_pod(_item(ownerReferences=[]), UPSTREAM) is None
    assert running_pod(_item(), UPSTREAM, frozenset({NAMESPACE})) is None
    assert running_pod(_item(), UPSTREAM, frozenset({"elsewhere"})) is not None


def test_instances_are_found_by_their_uid() -> None:
    stores = ClusterStores(UPSTREAM)
    first = VirtualMachineInstanceView(NAMESPACE, "db", "1", None, SILENT)
    stores.instances.put((NAMESPACE, "db"), first)
    index = InstanceIndex(stores.instances)
    assert index.get("1") is first
    second = VirtualMachineInstanceView(NAMESPACE, "db", "2", None, SILENT)
    stores.instances.put((NAMESPACE, "db"), second)
    assert index.get("1") is None
    assert index.get("2") is second
    stores.instances.replace({})
    assert index.get("2") is None


def test_a_new_version_alone_is_kept_but_no_news() -> None:
    store: ObjectStore[RunningPod] = ObjectStore()
    heard: list[Key] = []
    store.subscribe(lambda key, *_: heard.append(key))
    key = (NAMESPACE, "pod")
    store.put(key, _kept())
    item = _item()
    item["metadata"]["resourceVersion"] = "8"
    store.put(key, running_pod(item, UPSTREAM))
    assert heard == [key]
    found = store.get(*key)
    assert found is not None
    assert found.resource_version == "8"


def test_index_follows_the_store() -> None:
    store: ObjectStore[RunningPod] = ObjectStore()
    first, second, other = (NAMESPACE, "a"), (NAMESPACE, "b"), (NAMESPACE, "c")
    store.put(first, _kept("a"))
    index = PodIndex(store)
    store.put(second, _kept("b"))
    store.put(other, _kept("c", ownerReferences=[make_owner(uid="another")]))
    assert set(index.of_namespace(NAMESPACE)) == {first, second, other}
    assert set(index.of_owner(UID)) == {first, second}
    assert set(index.of_owner("another")) == {other}

    store.put(other, _kept("c"))  # an ownerReference can be changed
    assert set(index.of_owner(UID)) == {first, second, other}
    assert not index.of_owner("another")

    store.replace({second: _kept("b")})
    assert set(index.of_namespace(NAMESPACE)) == {second}
    store.put(second, None)
    assert not index.of_namespace(NAMESPACE)
    assert not index.of_owner(UID)

    index.close()
    store.put(first, _kept("a"))
    assert not index.of_namespace(NAMESPACE)


def test_ended_subscriptions_hear_nothing() -> None:
    store: ObjectStore[RunningPod] = ObjectStore()
    heard: list[Key] = []
    end = store.subscribe(lambda key, *_: heard.append(key))
    end()
    store.put((NAMESPACE, "a"), _kept("a"))
    assert not heard
    assert list(store) == [(NAMESPACE, "a")]
