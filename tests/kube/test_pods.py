"""Running launcher pods as they are kept, and the index over them."""

from typing import Any

from app.core.constants import EFFECTIVE_LEVEL, UPSTREAM
from app.kube.pods import PodIndex, RunningPod, running_pod
from app.kube.store import Key, ObjectStore
from tests.factories import NAME, NAMESPACE, decide_pod, make_owner, make_pod, patched


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


def test_other_pods_are_left_out() -> None:
    assert running_pod(_item(labels={"kubevirt.io": "virt-handler"}), UPSTREAM) is None
    assert running_pod(_item(ownerReferences=[make_owner(kind="ReplicaSet")]), UPSTREAM) is None


def test_a_pod_with_a_record_is_kept_whatever_its_label_says() -> None:
    item = _item()
    item = patched(item, decide_pod(item))
    item["metadata"]["labels"]["kubevirt.io"] = "hidden"
    pod = running_pod(item, UPSTREAM)
    assert pod is not None
    assert pod.view.annotations is not None
    assert EFFECTIVE_LEVEL in pod.view.annotations


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
    store.put(other, _kept("c", ownerReferences=[make_owner(name="another")]))
    assert set(index.of_namespace(NAMESPACE)) == {first, second, other}
    assert set(index.of_instance(NAMESPACE, NAME)) == {first, second}
    assert set(index.of_instance(NAMESPACE, "another")) == {other}

    store.put(other, _kept("c"))  # an ownerReference can be changed
    assert set(index.of_instance(NAMESPACE, NAME)) == {first, second, other}
    assert not index.of_instance(NAMESPACE, "another")

    store.replace({second: _kept("b")})
    assert set(index.of_namespace(NAMESPACE)) == {second}
    store.put(second, None)
    assert not index.of_namespace(NAMESPACE)
    assert not index.of_instance(NAMESPACE, NAME)

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
