"""Pods, clusters and policies as hypothesis makes them up."""

from typing import Any

from hypothesis import strategies as st

from app.core.annotations import LEVEL, MANAGED, OWN_KEYS, PROFILE
from app.core.hooks.render import render_hooks
from app.core.kubevirt_names import UPSTREAM
from app.core.objects import Facts
from app.core.policy import Hooks, Level, Policy
from app.core.profiles import Profile, Step
from app.core.record import with_record
from tests.infra.factories import (
    KUBEVIRT,
    NAME,
    NAMESPACE,
    make_bare_facts,
    make_facts,
    make_owner,
    make_pod,
    make_policy,
)

FREE_TEXT = st.text(max_size=12)
"""No half surrogate pairs: JSON as the API server reads it has none."""
ODD_KEYS = st.sampled_from(["", "/", "~", "~0", "~1/", "a/b~c", "ключ", "\N{PILE OF POO}", "0", "-", "__proto__"])
LEVELS = st.sampled_from(["crash", "filesystem", "application"])
SPELLINGS = st.sampled_from(["true", "false", "1", "0", "maybe", ""])

PROFILE_WITH_STEPS = Profile(quiesce=(Step("a", "true", 5),), resume=(Step("b", "true", 5),))

RECORDS = st.builds(
    lambda level, hooks, profile: with_record(
        render_hooks(level, PROFILE_WITH_STEPS, hooks, NAMESPACE, NAME, UPSTREAM), level, profile, "vm"
    ),
    st.sampled_from(Level),
    st.sampled_from(
        [
            Hooks(),
            Hooks(crash_noop=True),
            Hooks(require_frozen=True),
            Hooks(auto_thaw_seconds=90, thaw_on_error="Fail"),
        ]
    ),
    st.none() | FREE_TEXT,
)
"""Records that are intact, and may come from anybody."""

WISHES = st.fixed_dictionaries(
    {},
    optional={
        LEVEL: LEVELS | FREE_TEXT,
        PROFILE: st.sampled_from(["mysql", "own"]) | FREE_TEXT,
        MANAGED: SPELLINGS | FREE_TEXT,
        UPSTREAM.skip_annotation: SPELLINGS,
    },
)
ANNOTATIONS = st.none() | st.builds(
    lambda *parts: {key: value for part in parts for key, value in part.items()},
    st.sampled_from([{}, dict(KUBEVIRT)]),
    st.dictionaries(ODD_KEYS | FREE_TEXT, FREE_TEXT, max_size=4),
    st.just({}) | RECORDS,
    st.just({}) | st.dictionaries(st.sampled_from(OWN_KEYS), FREE_TEXT, max_size=4),
    WISHES,
)
TEMPLATE_LABELS = st.fixed_dictionaries({}, optional={"app": st.sampled_from(["pg", "web"])})


def _pod(annotations: dict[str, str] | None, labels: dict[str, str]) -> dict[str, Any]:
    pod = make_pod(annotations=annotations)
    pod["metadata"]["labels"] |= labels
    return pod


PODS = st.builds(_pod, ANNOTATIONS, TEMPLATE_LABELS)

FACTS: st.SearchStrategy[Facts] = st.one_of(
    st.builds(
        make_facts,
        vm=WISHES,
        vmi=WISHES,
        namespace=WISHES,
        labels=st.sampled_from([{}, {"tier": "data"}]),
        skip=st.none() | SPELLINGS,
    ),
    st.builds(
        make_bare_facts,
        vmi=WISHES,
        owner=st.sampled_from([None, make_owner(kind="VirtualMachine")]),
        namespace=WISHES,
        skip=st.none() | SPELLINGS,
    ),
    st.builds(lambda facts: Facts(facts.namespace), st.builds(make_facts, namespace=WISHES)),
)

_TIMEOUTS = st.sampled_from(["1s", "60s", "1m30s", "299s"])
_HOOKS = st.fixed_dictionaries(
    {},
    optional={
        "freeze": st.fixed_dictionaries(
            {}, optional={"timeout": _TIMEOUTS, "onError": st.sampled_from(["Continue", "Fail"])}
        ),
        "thaw": st.fixed_dictionaries(
            {}, optional={"timeout": _TIMEOUTS, "onError": st.sampled_from(["Continue", "Fail"])}
        ),
        "autoThaw": st.sampled_from(["5m", "1h"]),
        "requireFrozen": st.booleans(),
        "crash": st.sampled_from(["remove", "noop"]),
    },
)
_CHOICE: dict[str, st.SearchStrategy[Any]] = {
    "level": LEVELS,
    "profile": st.sampled_from(["mysql", "own"]),
    "allow": st.lists(st.sampled_from(["crash", "filesystem", "application", "unmanaged"]), unique=True),
    "allowProfiles": st.lists(st.sampled_from(["mysql", "own"]), unique=True),
}
_MATCH = st.sampled_from(
    [
        {"namespaces": [NAMESPACE]},
        {"namespaces": ["db-*", "[!a]*"]},
        {"namespaces": ["elsewhere"]},
        {"namespaceSelector": {"matchLabels": {"tier": "data"}}},
        {"templateSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["pg"]}]}},
        {"namespaces": ["*"], "templateSelector": {"matchLabels": {"app": "pg"}}},
    ]
)


def _policy(rules: list[dict[str, Any]], **fields: Any) -> Policy:
    named = [{"name": f"r{index}", **rule} for index, rule in enumerate(rules)]
    return make_policy(rules=named, profiles={"own": {}}, **fields)


POLICIES: st.SearchStrategy[Policy] = st.builds(
    _policy,
    st.lists(
        st.fixed_dictionaries({"match": _MATCH}, optional={**_CHOICE, "hooks": _HOOKS})
        | st.fixed_dictionaries({"match": _MATCH, "managed": st.just(False)}),
        max_size=3,
    ),
    mode=st.sampled_from(["enforce", "enforce", "enforce", "audit"]),
    default=st.builds(lambda choice: {"profile": "mysql", **choice}, st.fixed_dictionaries({}, optional=_CHOICE)),
    hooks=_HOOKS,
)
"""Policies without errors: the default has a profile, so that `application` never lacks one."""
