"""The order of the sources: the higher one wins, and what does not count falls through and is told."""

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest

from app.core.annotations import LEVEL, MANAGED, PROFILE
from app.core.kubevirt_names import UPSTREAM
from app.core.level_source import Refused, Selection, is_source, parse_bool
from app.core.objects import Facts
from app.core.policy import BUILT_IN, Level, Policy
from tests.core.support import NO_VM, launcher, refused, select
from tests.infra.factories import (
    NAME,
    NAMESPACE,
    make_bare_facts,
    make_facts,
    make_owner,
    make_policy,
)

SKIP = UPSTREAM.skip_annotation
FILESYSTEM = {LEVEL: "filesystem"}
CRASH = {LEVEL: "crash"}


@dataclass
class Cluster:
    """What all sources say; a test speaks for one or two of them."""

    vm: dict[str, str] = field(default_factory=dict)
    template: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, str] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)

    def say(self, source: str, level: str) -> str:
        """Let `source` ask for `level`; return where a refusal must say it was."""
        if source == "vm":
            self.vm[LEVEL] = level
            return f"VirtualMachine {NAME}:"
        if source == "template":
            self.template[LEVEL] = level
            return "the VM's spec.template.metadata:"
        if source == "skip-backup-hooks":
            self.vm[SKIP] = "true"
            return f"VirtualMachine {NAME}: {SKIP}:"
        if source == "namespace":
            self.namespace[LEVEL] = level
            return f"Namespace {NAMESPACE}:"
        if source == "rule/r":
            rule = {"name": "r", "match": {"namespaces": ["*"]}, "level": level}
            self.policy.setdefault("rules", []).append(rule)
            return "policy rule/r:"
        self.policy.setdefault("default", {})["level"] = level
        return "policy default:"

    def select(self) -> Selection:
        facts = make_facts(vm=self.vm, namespace=self.namespace)
        return select(facts, make_policy(**self.policy), launcher(self.template))


ANNOTATED = ("vm", "template", "namespace")
ORDER = ("vm", "template", "skip-backup-hooks", "namespace", "rule/r", "default")
PAIRS = [pytest.param(*pair, id=f"{pair[0]}-over-{pair[1]}") for pair in combinations(ORDER, 2)]


def level_of(source: str, other: str) -> tuple[str, str]:
    """Two levels that differ; KubeVirt's switch can only say crash."""
    return ("filesystem", "crash") if other == "skip-backup-hooks" else ("crash", "filesystem")


@pytest.mark.parametrize("source", ORDER)
@pytest.mark.parametrize("level", ["crash", "filesystem"])
def test_each_source_decides_alone(source: str, level: str) -> None:
    if source == "skip-backup-hooks" and level == "filesystem":
        level = "crash"
    cluster = Cluster()
    cluster.say(source, level)
    assert cluster.select() == Selection(source, Level(level), None, BUILT_IN.default.hooks, ())


def test_silence_means_filesystem() -> None:
    assert select() == Selection("built-in", Level.FILESYSTEM, None, BUILT_IN.default.hooks, ())


@pytest.mark.parametrize(("higher", "lower"), PAIRS)
def test_higher_source_wins(higher: str, lower: str) -> None:
    wins, loses = level_of(higher, lower)
    cluster = Cluster()
    cluster.say(higher, wins)
    cluster.say(lower, loses)
    selection = cluster.select()
    assert (selection.decided_by, selection.level, selection.refusals) == (higher, Level(wins), ())


@pytest.mark.parametrize(("higher", "lower"), [pair for pair in PAIRS if pair.values[0] in ANNOTATED])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("snapshot", id="unknown"),
        pytest.param("Crash", id="other-case"),
        pytest.param(" crash", id="blank"),
        pytest.param("", id="empty"),
        pytest.param("x" * 5000 + "\n\x1b", id="long-and-unprintable"),
    ],
)
def test_unknown_level_falls_to_the_lower_and_is_told_once(higher: str, lower: str, text: str) -> None:
    cluster = Cluster()
    where = cluster.say(higher, text)
    cluster.say(lower, "crash")
    selection = cluster.select()
    assert (selection.decided_by, selection.level) == (lower, Level.CRASH)
    assert refused(selection) == [(higher, Refused.UNKNOWN_LEVEL)]
    (message,) = (refusal.message for refusal in selection.refusals)
    assert message.startswith(where)
    assert message.isprintable()
    assert len(message) < 256


@pytest.mark.parametrize(
    ("higher", "lower"), [pair for pair in PAIRS if pair.values[0] in (*ANNOTATED, "skip-backup-hooks")]
)
def test_disallowed_level_falls_to_the_lower_and_is_told_once(higher: str, lower: str) -> None:
    refused_level, level = level_of(higher, lower)
    cluster = Cluster()
    where = cluster.say(higher, refused_level)
    cluster.say(lower, level)
    guard = {"name": "guard", "match": {"namespaces": [NAMESPACE]}, "allow": [level]}
    cluster.policy.setdefault("rules", []).insert(0, {**guard, **({"level": level} if lower == "rule/r" else {})})
    selection = cluster.select()
    assert (selection.decided_by, selection.level) == ("rule/guard" if lower == "rule/r" else lower, Level(level))
    assert refused(selection) == [(higher, Refused.LEVEL_NOT_ALLOWED)]
    assert selection.refusals[0].message.startswith(where)


@pytest.mark.parametrize(("higher", "lower"), [pair for pair in PAIRS if pair.values[0] in ANNOTATED])
def test_a_profile_that_is_missing_falls_to_the_lower_and_is_told_once(higher: str, lower: str) -> None:
    cluster = Cluster()
    where = cluster.say(higher, "application")
    cluster.say(lower, "crash")
    selection = cluster.select()
    assert (selection.decided_by, selection.level, selection.profile) == (lower, Level.CRASH, None)
    assert refused(selection) == [(higher, Refused.PROFILE_MISSING)]
    assert selection.refusals[0].message.startswith(where)


def test_every_source_can_be_passed_over() -> None:
    policy = make_policy(
        default={"level": "application", "profile": "redis", "allow": []},
        rules=[{"name": "r", "match": {"templateSelector": {"matchLabels": {"a": "b"}}}, "level": "application"}],
    )
    known = make_facts(vm={LEVEL: "crash", SKIP: "true"}, namespace=CRASH)
    facts = Facts(known.namespace, None, known.vm)
    selection = select(facts, policy, launcher(CRASH, a="b"))
    assert selection.decided_by == "built-in"
    assert refused(selection) == [
        *((source, Refused.LEVEL_NOT_ALLOWED) for source in ("vm", "template", "skip-backup-hooks", "namespace")),
        ("rule/r", Refused.UNKNOWN_INSTANCE),
        ("default", Refused.UNKNOWN_INSTANCE),
    ]


def test_rule_without_a_level_leaves_it_to_the_default() -> None:
    policy = make_policy(default={"level": "crash"}, rules=[{"name": "r", "match": {"namespaces": ["*"]}}])
    assert select(policy=policy).decided_by == "default"


@pytest.mark.parametrize("source", ANNOTATED)
def test_profile_without_level_is_told(source: str) -> None:
    said = {source: {PROFILE: "postgresql"}}
    facts = make_facts(vm=said.get("vm"), namespace=said.get("namespace"))
    selection = select(facts, pod=launcher(said.get("template")))
    assert selection.decided_by == "built-in"
    assert refused(selection) == [(source, Refused.PROFILE_WITHOUT_LEVEL)]


class TestWithoutVirtualMachine:
    """Who speaks as source `vm` where no VirtualMachine is known."""

    @pytest.mark.parametrize(
        "owner",
        [
            pytest.param(None, id="bare"),
            pytest.param(make_owner(kind="VirtualMachineInstanceReplicaSet"), id="of-a-replica-set"),
            pytest.param(make_owner(kind="VirtualMachine", apiVersion="other.io/v1"), id="of-a-foreign-kind"),
        ],
    )
    def test_instance_speaks_for_itself(self, owner: dict[str, Any] | None) -> None:
        selection = select(make_bare_facts(vmi={LEVEL: "snapshot", SKIP: "true"}, owner=owner))
        assert (selection.decided_by, selection.level) == ("skip-backup-hooks", Level.CRASH)
        (refusal,) = selection.refusals
        assert refusal.source == "vm"
        assert refusal.message.startswith(f"VirtualMachineInstance {NAME}: ")

    def test_annotations_of_a_bare_instance_do_not_outlive_their_removal(self) -> None:
        # virt-controller copied them to the pod when it was made; there is no template to take them from.
        assert select(make_bare_facts(vmi=CRASH), pod=launcher(CRASH)).decided_by == "vm"
        assert select(make_bare_facts(vmi={}), pod=launcher(CRASH)).decided_by == "built-in"

    def test_instance_of_a_vm_that_is_gone_does_not_speak_but_its_template_does(self) -> None:
        gone = make_bare_facts(vmi={**CRASH, SKIP: "true"}, owner=make_owner(kind="VirtualMachine"))
        assert select(gone).decided_by == "built-in"
        assert select(gone, pod=launcher(CRASH)).decided_by == "template"

    def test_unknown_instance_leaves_the_template(self) -> None:
        assert select(NO_VM).decided_by == "built-in"
        assert select(NO_VM, pod=launcher(CRASH)).decided_by == "template"

    def test_instance_of_a_vm_does_not_speak_beside_it(self) -> None:
        # VirtualMachine and template are the sources; the instance merely has copies of the latter.
        assert select(make_facts(vm={}, vmi={**CRASH, SKIP: "true"})).decided_by == "built-in"


class TestSkipBackupHooks:
    @pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
    def test_true_as_go_reads_it(self, text: str) -> None:
        assert select(make_facts(vm={SKIP: text})).decided_by == "skip-backup-hooks"

    @pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
    def test_false_as_go_reads_it(self, text: str) -> None:
        selection = select(make_facts(vm={SKIP: text}))
        assert (selection.decided_by, selection.refusals) == ("built-in", ())

    @pytest.mark.parametrize("text", ["yes", "on", "tRUE", "", " true", "2"])
    def test_anything_else_is_told(self, text: str) -> None:
        selection = select(make_facts(vm={SKIP: text}))
        assert selection.decided_by == "built-in"
        assert refused(selection) == [("skip-backup-hooks", Refused.NOT_A_BOOLEAN)]
        assert f"VirtualMachine {NAME}: {SKIP}={text!r}" in selection.refusals[0].message

    def test_template_of_the_vm_does_not_carry_it(self) -> None:
        # The VM controller takes it off the instance again where the VM's own metadata lack it.
        assert select(pod=launcher({SKIP: "true"})).decided_by == "built-in"

    @pytest.mark.parametrize(
        ("own", "kubevirt", "level"),
        [
            pytest.param(None, "true", Level.CRASH, id="KubeVirt-object"),
            pytest.param(None, "1", Level.CRASH, id="KubeVirt-object-any-spelling"),
            pytest.param(None, "no", Level.FILESYSTEM, id="KubeVirt-object-malformed"),
            pytest.param(None, "false", Level.FILESYSTEM, id="KubeVirt-object-false"),
            pytest.param("false", "true", Level.FILESYSTEM, id="VM-takes-it-back"),
            pytest.param("maybe", "true", Level.FILESYSTEM, id="malformed-on-the-VM-counts-as-false-in-KubeVirt"),
        ],
    )
    def test_built_in_default(self, own: str | None, kubevirt: str, level: Level) -> None:
        selection = select(make_facts(vm={} if own is None else {SKIP: own}, skip=kubevirt))
        assert (selection.decided_by, selection.level) == ("built-in", level)

    def test_kubevirt_object_gives_way_to_the_policy(self) -> None:
        policy = make_policy(default={"level": "filesystem"})
        assert select(make_facts(skip="true"), policy).level is Level.FILESYSTEM

    @pytest.mark.parametrize(("kubevirt", "level"), [(None, Level.FILESYSTEM), ("true", Level.CRASH)])
    def test_refused_on_the_vm_it_does_not_come_back_as_the_built_in(self, kubevirt: str | None, level: Level) -> None:
        policy = make_policy(default={"allow": ["filesystem"]})
        selection = select(make_facts(vm={SKIP: "true"}, skip=kubevirt), policy)
        assert (selection.decided_by, selection.level) == ("built-in", level)
        assert refused(selection) == [("skip-backup-hooks", Refused.LEVEL_NOT_ALLOWED)]


class TestRules:
    def policy(self, **match: Any) -> Policy:
        return make_policy(rules=[{"name": "r", "match": match, "level": "crash"}], default={"level": "filesystem"})

    @pytest.mark.parametrize(
        ("match", "matches"),
        [
            pytest.param({"namespaces": ["sh*"]}, True, id="namespace"),
            pytest.param({"namespaces": ["db-*"]}, False, id="other-namespace"),
            pytest.param({"namespaceSelector": {"matchLabels": {"tier": "data"}}}, True, id="namespace-label"),
            pytest.param(
                {"namespaceSelector": {"matchLabels": {"app": "pg"}}}, False, id="template-label-is-not-the-namespace's"
            ),
            pytest.param({"templateSelector": {"matchLabels": {"app": "pg"}}}, True, id="template-label"),
            pytest.param(
                {"templateSelector": {"matchLabels": {"tier": "data"}}},
                False,
                id="namespace-label-is-not-the-template's",
            ),
            pytest.param(
                {"namespaces": ["shop"], "templateSelector": {"matchLabels": {"app": "web"}}},
                False,
                id="all-fields-must-match",
            ),
            pytest.param(
                {"namespaces": ["x"], "namespaceSelector": {"matchLabels": {"tier": "data"}}},
                False,
                id="both-namespace-fields",
            ),
        ],
    )
    def test_match(self, match: dict[str, Any], matches: bool) -> None:
        selection = select(make_facts(labels={"tier": "data"}), self.policy(**match), launcher(app="pg"))
        assert selection.decided_by == ("rule/r" if matches else "default")

    def test_first_match_wins(self) -> None:
        rules = [
            {"name": name, "match": {"namespaces": [pattern]}, "level": level}
            for name, pattern, level in (("a", "x", "crash"), ("b", "*", "crash"), ("c", "*", "filesystem"))
        ]
        assert select(policy=make_policy(rules=rules)).decided_by == "rule/b"

    @pytest.mark.parametrize("source", [*ORDER, "built-in"])
    def test_hooks_of_the_matching_rule_hold_whoever_chose(self, source: str) -> None:
        cluster = Cluster(
            policy={"hooks": {"freeze": {"timeout": "70s"}, "thaw": {"timeout": "80s", "onError": "Fail"}}}
        )
        if source != "built-in":
            cluster.say(source, "crash")
        rules = cluster.policy.setdefault("rules", [{"name": "r", "match": {"namespaces": ["*"]}}])
        rules[0]["hooks"] = {"freeze": {"timeout": "90s"}, "thaw": {"onError": "Continue"}, "crash": "noop"}
        selection = cluster.select()
        hooks = selection.hooks
        assert selection.decided_by == source
        assert (hooks.freeze_timeout, hooks.thaw_timeout, hooks.thaw_on_error) == ("90s", "80s", "Continue")
        assert hooks.crash_noop

    def test_hooks_of_the_policy_hold_where_no_rule_matches(self) -> None:
        assert select(policy=make_policy(hooks={"autoThaw": "5m"})).hooks.auto_thaw_seconds == 300


@pytest.mark.parametrize(
    ("text", "known"),
    [*((source, True) for source in (*ORDER, "built-in", "rule/")), ("rules", False), ("", False), (None, False)],
)
def test_sources_are_known_by_name(text: str | None, known: bool) -> None:
    assert is_source(text) is known


def test_absent_is_no_boolean() -> None:
    assert parse_bool(None) is None


def test_managed_is_no_level() -> None:
    assert select(make_facts(vm={MANAGED: "true"})).decided_by == "built-in"
