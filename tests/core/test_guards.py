"""What the policy lets annotations choose, and who may take a VM out of our hands."""

from typing import Any

import pytest

from app.core.annotations import LEVEL, MANAGED, PROFILE
from app.core.kubevirt_names import UPSTREAM
from app.core.level_source import Refused, Selection, select_level
from app.core.objects import Facts
from app.core.policy import Level, Policy
from tests.core.support import NO_VM, launcher, refused, select
from tests.infra.factories import make_bare_facts, make_facts, make_pod, make_policy, view

HANDS_OFF = {MANAGED: "false"}
HANDS_ON = {MANAGED: "true"}
ASKED = {LEVEL: "application"}

SHOP = {"namespaces": ["shop"]}
LABELLED = {"namespaceSelector": {"matchLabels": {"tier": "data"}}}
TEMPLATE = {"templateSelector": {"matchLabels": {"app": "pg"}}}
ELSEWHERE = {"namespaces": ["elsewhere"]}

UNMANAGED = ["crash", "filesystem", "application", "unmanaged"]


def rule(name: str, allow: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    return {"name": name, **({} if allow is None else {"allow": allow}), **fields}


class TestAllow:
    """`allow` comes from the first rule that matches by its namespace fields alone, else from the default."""

    @pytest.mark.parametrize(
        ("rules", "allowed"),
        [
            pytest.param([], False, id="default"),
            pytest.param([rule("a", ["crash"], match=SHOP)], True, id="namespace-pattern"),
            pytest.param([rule("a", ["crash"], match=LABELLED)], True, id="namespace-labels"),
            pytest.param([rule("a", ["crash"], match=ELSEWHERE)], False, id="another-namespace"),
            pytest.param([rule("a", match=SHOP)], True, id="every-level-when-absent"),
            pytest.param([rule("a", [], match=SHOP)], False, id="empty-allows-nothing"),
            pytest.param([rule("a", ["crash"], match=TEMPLATE)], False, id="template-labels-never-guard"),
            pytest.param(
                [rule("a", ["crash"], match=TEMPLATE), rule("b", ["filesystem"], match=SHOP)],
                False,
                id="not-even-where-their-rule-is-the-first-match",
            ),
            pytest.param([rule("a", ["crash"], match={**SHOP, **TEMPLATE})], True, id="namespace-beside-template"),
            pytest.param(
                [rule("a", ["filesystem"], match={**SHOP, "templateSelector": {"matchLabels": {"app": "no"}}})],
                False,
                id="its-namespace-fields-guard-though-the-template-does-not-match",
            ),
            pytest.param(
                [rule("a", ["crash"], match=SHOP), rule("b", ["filesystem"], match=SHOP)], True, id="first-of-two"
            ),
        ],
    )
    def test_source_of_the_guard(self, rules: list[dict[str, Any]], allowed: bool) -> None:
        policy = make_policy(rules=rules, default={"allow": ["filesystem"]})
        facts = make_facts(vm={LEVEL: "crash"}, labels={"tier": "data"})
        selection = select(facts, policy, launcher(app="pg"))
        assert (selection.decided_by == "vm") is allowed
        assert refused(selection) == ([] if allowed else [("vm", Refused.LEVEL_NOT_ALLOWED)])

    def test_policy_itself_is_free(self) -> None:
        policy = make_policy(rules=[rule("a", [], match=SHOP, level="crash")])
        assert select(policy=policy).decided_by == "rule/a"

    def test_unmanaged_is_no_level(self) -> None:
        selection = select(make_facts(vm={LEVEL: "unmanaged"}), make_policy(default={"allow": UNMANAGED}))
        assert refused(selection) == [("vm", Refused.UNKNOWN_LEVEL)]


class TestManaged:
    """A rule's `managed`, else the VM's, else the Namespace's; theirs count only where `allow` has unmanaged."""

    ALLOWING = make_policy(default={"allow": UNMANAGED})
    REFUSING = make_policy(default={"allow": ["crash", "filesystem"]})

    @pytest.mark.parametrize(
        ("facts", "decided_by"),
        [
            pytest.param(make_facts(vm=HANDS_OFF), "vm", id="VM"),
            pytest.param(make_facts(namespace=HANDS_OFF), "namespace", id="namespace"),
            pytest.param(make_facts(vm=HANDS_OFF, namespace=HANDS_ON), "vm", id="VM-false-over-namespace-true"),
            pytest.param(make_facts(vm=HANDS_ON, namespace=HANDS_OFF), None, id="VM-true-over-namespace-false"),
            pytest.param(make_facts(vm=HANDS_ON), None, id="VM-true"),
            pytest.param(make_bare_facts(vmi=HANDS_OFF), "vm", id="bare-instance"),
            pytest.param(make_facts(vmi=HANDS_OFF), None, id="instance-beside-its-VM"),
            pytest.param(make_facts(vm={MANAGED: "0"}), "vm", id="any-spelling-of-false"),
        ],
    )
    def test_where_the_policy_allows_it(self, facts: Facts, decided_by: str | None) -> None:
        selection = select(facts, self.ALLOWING)
        assert selection.decided_by == (decided_by or "built-in")
        assert (selection.level is None) is (decided_by is not None)
        assert selection.refusals == ()

    def test_in_the_template_it_has_no_effect_and_that_is_said(self) -> None:
        selection = select(make_facts(), self.ALLOWING, launcher(HANDS_OFF))
        assert selection.level is Level.FILESYSTEM
        assert refused(selection) == [("template", Refused.MANAGED_IN_TEMPLATE)]

    @pytest.mark.parametrize("policy", [REFUSING, make_policy(), make_policy(default={"allow": []})])
    @pytest.mark.parametrize(
        ("facts", "source"),
        [
            pytest.param(make_facts(vm=HANDS_OFF), "vm", id="VM"),
            pytest.param(make_facts(namespace=HANDS_OFF), "namespace", id="namespace"),
            pytest.param(make_facts(vm=HANDS_OFF, namespace=HANDS_OFF), "vm", id="both"),
        ],
    )
    def test_where_the_policy_does_not(self, policy: Policy, facts: Facts, source: str) -> None:
        selection = select(facts, policy)
        assert (selection.decided_by, selection.level) == ("built-in", Level.FILESYSTEM)
        assert refused(selection) == [(source, Refused.UNMANAGED_NOT_ALLOWED)]

    def test_template_does_not_count(self) -> None:
        assert select(policy=self.ALLOWING, pod=launcher(HANDS_OFF)).level is Level.FILESYSTEM

    def test_malformed_is_told_and_leaves_it_to_the_namespace(self) -> None:
        selection = select(make_facts(vm={MANAGED: "never"}, namespace=HANDS_OFF), self.ALLOWING)
        assert (selection.decided_by, selection.level) == ("namespace", None)
        assert refused(selection) == [("vm", Refused.NOT_A_BOOLEAN)]

    def test_level_counts_where_the_policy_refuses_hands_off(self) -> None:
        selection = select(make_facts(vm={**HANDS_OFF, LEVEL: "crash"}), self.REFUSING)
        assert (selection.decided_by, selection.level) == ("vm", Level.CRASH)

    def test_guard_comes_from_the_namespace_fields(self) -> None:
        policy = make_policy(
            rules=[rule("tenants-label", UNMANAGED, match={"templateSelector": {"matchLabels": {"app": "pg"}}})]
        )
        selection = select(make_facts(vm=HANDS_OFF), policy, launcher(app="pg"))
        assert refused(selection) == [("vm", Refused.UNMANAGED_NOT_ALLOWED)]

    def test_rule_speaks_for_itself_and_over_the_vm(self) -> None:
        policy = make_policy(rules=[rule("other-product", match={"namespaces": ["shop"]}, managed=False)])
        selection = select(make_facts(vm={**HANDS_ON, LEVEL: "crash"}), policy)
        assert selection == Selection("rule/other-product", None, None, selection.hooks, ())

    def test_rule_that_comes_later_does_not(self) -> None:
        rules = [
            rule("first", match={"namespaces": ["shop"]}),
            rule("second", match={"namespaces": ["shop"]}, managed=False),
        ]
        assert select(policy=make_policy(rules=rules)).level is Level.FILESYSTEM


class TestApplication:
    """Level application brings its profile along, or takes that of the rule or default."""

    def policy(self, **fields: Any) -> Policy:
        rule = {"name": "r", "match": {"namespaces": ["shop"]}, **fields}
        return make_policy(rules=[rule], profiles={"own": {}})

    def test_vm_names_level_and_profile(self) -> None:
        facts = make_facts(vm={**ASKED, PROFILE: "own"})
        selection = select(facts, self.policy(allowProfiles=["own"]))
        assert (selection.decided_by, selection.level, selection.profile) == ("vm", Level.APPLICATION, "own")

    @pytest.mark.parametrize(
        ("policy", "profile"),
        [
            pytest.param(
                {"rules": [{"name": "r", "match": {"namespaces": ["*"]}, "profile": "mysql"}]}, "mysql", id="rule"
            ),
            pytest.param({"default": {"profile": "redis"}}, "redis", id="default"),
            pytest.param(
                {
                    "rules": [{"name": "r", "match": {"namespaces": ["*"]}, "profile": "mysql"}],
                    "default": {"profile": "redis"},
                },
                "mysql",
                id="rule-over-default",
            ),
            pytest.param(
                {"rules": [{"name": "r", "match": {"namespaces": ["*"]}, "profile": "mysql", "allowProfiles": []}]},
                "mysql",
                id="no-choice-to-guard",
            ),
        ],
    )
    @pytest.mark.parametrize("annotations", [ASKED, {**ASKED, PROFILE: ""}])
    def test_vm_names_the_level_alone(self, policy: dict[str, Any], profile: str, annotations: dict[str, str]) -> None:
        selection = select(make_facts(vm=annotations), make_policy(**policy))
        assert (selection.decided_by, selection.level, selection.profile) == ("vm", Level.APPLICATION, profile)

    @pytest.mark.parametrize("source", ["vm", "template", "namespace"])
    def test_without_any_profile_the_next_source_decides(self, source: str) -> None:
        facts = make_facts(vm=ASKED if source == "vm" else {}, namespace=ASKED if source == "namespace" else {})
        selection = select(facts, make_policy(), launcher(ASKED if source == "template" else {}))
        assert selection.decided_by == "built-in"
        assert refused(selection) == [(source, Refused.PROFILE_MISSING)]

    @pytest.mark.parametrize(
        ("fields", "profile", "reason"),
        [
            pytest.param({"profile": "own"}, "own", None, id="the-rule's-own-when-absent"),
            pytest.param({"profile": "own"}, "mysql", Refused.PROFILE_NOT_ALLOWED, id="no-other-when-absent"),
            pytest.param({"profile": "own", "allowProfiles": ["mysql"]}, "mysql", None, id="listed"),
            pytest.param(
                {"profile": "own", "allowProfiles": ["mysql"]}, "own", Refused.PROFILE_NOT_ALLOWED, id="unlisted"
            ),
            pytest.param({"allowProfiles": []}, "mysql", Refused.PROFILE_NOT_ALLOWED, id="empty"),
            pytest.param({}, "mysql", Refused.PROFILE_NOT_ALLOWED, id="nothing-to-inherit"),
            pytest.param({"allowProfiles": ["own"]}, "nope\n", Refused.UNKNOWN_PROFILE, id="unknown"),
            pytest.param({"allow": ["crash"]}, "own", Refused.LEVEL_NOT_ALLOWED, id="level-comes-first"),
        ],
    )
    def test_allow_profiles(self, fields: dict[str, Any], profile: str, reason: Refused | None) -> None:
        selection = select(make_facts(vm={**ASKED, PROFILE: profile}), self.policy(**fields))
        assert refused(selection) == ([("vm", reason)] if reason else [])
        assert selection.decided_by == ("built-in" if reason else "vm")
        assert all(refusal.message.isprintable() for refusal in selection.refusals)

    @pytest.mark.parametrize(
        ("policy", "source"),
        [
            pytest.param({"default": {"level": "application", "profile": "mysql"}}, "default", id="default"),
            pytest.param(
                {"rules": [{"name": "r", "match": {"namespaces": ["*"]}, "level": "application", "profile": "mysql"}]},
                "rule/r",
                id="rule",
            ),
            pytest.param(
                {
                    "rules": [{"name": "r", "match": {"namespaces": ["*"]}, "level": "application"}],
                    "default": {"profile": "mysql"},
                },
                "rule/r",
                id="rule-with-the-default's-profile",
            ),
            pytest.param(
                {
                    "rules": [{"name": "r", "match": {"namespaces": ["*"]}, "profile": "redis"}],
                    "default": {"level": "application", "profile": "mysql"},
                },
                "default",
                id="level-and-profile-come-from-one-source",
            ),
        ],
    )
    def test_policy_needs_nobodys_leave(self, policy: dict[str, Any], source: str) -> None:
        closed: dict[str, Any] = {"allow": [], "allowProfiles": []}
        rules = [{**rule, **closed} for rule in policy.get("rules", [])]
        selection = select(policy=make_policy(rules=rules, default={**policy.get("default", {}), **closed}))
        assert (selection.decided_by, selection.profile, selection.refusals) == (source, "mysql", ())

    def test_no_other_level_has_a_profile(self) -> None:
        selection = select(make_facts(vm={LEVEL: "filesystem", PROFILE: "mysql"}))
        assert (selection.level, selection.profile) == (Level.FILESYSTEM, None)

    @pytest.mark.parametrize(
        ("template", "default", "sources"),
        [
            pytest.param(ASKED, {"profile": "mysql"}, ["template"], id="template"),
            pytest.param({}, {"level": "application", "profile": "mysql"}, ["default"], id="policy"),
        ],
    )
    def test_needs_an_instance_of_that_name_and_uid(
        self, template: dict[str, str], default: dict[str, str], sources: list[str]
    ) -> None:
        policy = make_policy(default=default)
        selection = select(NO_VM, policy, launcher(template))
        assert (selection.decided_by, selection.level) == ("built-in", Level.FILESYSTEM)
        assert refused(selection) == [(source, Refused.UNKNOWN_INSTANCE) for source in sources]
        assert select(make_facts(), policy, launcher(template)).level is Level.APPLICATION


def test_switch_of_kubevirt_counts_for_level_crash() -> None:
    policy = make_policy(default={"allow": ["filesystem"], "level": "filesystem"})
    facts = make_facts(vm={UPSTREAM.skip_annotation: "true"})
    selection = select_level(policy, facts, view(make_pod()), UPSTREAM)
    assert refused(selection) == [("skip-backup-hooks", Refused.LEVEL_NOT_ALLOWED)]
    assert selection.decided_by == "default"
