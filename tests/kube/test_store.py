"""A store tells of differences, once each."""

from app.kube.store import ObjectStore

Change = tuple[tuple[str, str], str | None, str | None]


def _store() -> tuple[ObjectStore[str], list[Change]]:
    store: ObjectStore[str] = ObjectStore()
    changes: list[Change] = []
    store.subscribe(lambda *change: changes.append(change))
    return store, changes


def test_changes_of_one_object() -> None:
    store, changes = _store()
    key = ("ns", "a")
    for new in (None, "1", "1", "2", None, None):
        store.put(key, new)
    assert changes == [(key, None, "1"), (key, "1", "2"), (key, "2", None)]
    assert len(store) == 0


def test_a_new_list_replaces_all_and_tells_only_differences() -> None:
    store, changes = _store()
    synced_before = store.synced
    store.replace({("ns", "gone"): "1", ("ns", "same"): "1", ("ns", "other"): "1"})
    assert (synced_before, store.synced) == (False, True)
    changes.clear()
    store.replace({("ns", "same"): "1", ("ns", "other"): "2", ("", "new"): "1"})
    assert changes == [(("ns", "gone"), "1", None), (("ns", "other"), "1", "2"), (("", "new"), None, "1")]
    assert dict(store.items()) == {("ns", "same"): "1", ("ns", "other"): "2", ("", "new"): "1"}
    assert (store.get("", "new"), store.get("ns", "new")) == ("1", None)


def test_callbacks_see_the_new_state() -> None:
    store: ObjectStore[str] = ObjectStore()
    seen: list[int] = []
    store.subscribe(lambda *_: seen.append(len(store)))
    store.replace({("", "a"): "1", ("", "b"): "1"})
    store.put(("", "c"), "1")
    assert seen == [2, 2, 3]
