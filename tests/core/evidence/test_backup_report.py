"""What is told of a backup: from the objects in its archive and its log."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from app.core.annotations import HOOKS_DIGEST, PRE
from app.core.evidence.backup_archive import BackupContents, BackupView
from app.core.evidence.backup_report import BackupReport, report
from app.core.evidence.backup_vm import VmReport
from app.core.evidence.freeze_window import Achieved
from app.core.evidence.hook_log import read_hook_log
from app.core.hooks.render import kubevirt_hooks, render_hooks
from app.core.kubevirt_names import UPSTREAM, KubeVirtNames
from app.core.policy import Hooks, Level
from app.core.profiles import NO_STEPS
from app.core.record import RecordState, with_record
from tests.core.evidence.velero_log import DONE, EXIT_1, NO_AGENT, VeleroLog, freezer_line
from tests.infra.factories import Object, make_owner, make_pod

FROZEN, NOT_FROZEN, UNKNOWN, NOT_RUNNING = Achieved
NS = "prod"
HELD = "vm-consistency: thawed, was frozen until then\n"


def hooks(vm: str, level: Level = Level.FILESYSTEM, settings: Hooks | None = None, ns: str = NS) -> dict[str, str]:
    """The hooks that this product writes, with their record."""
    written = render_hooks(level, NO_STEPS, settings or Hooks(), ns, vm, UPSTREAM)
    return with_record(written, level, None, "rule/databases")


def argv(annotations: Mapping[str, str], phase: str) -> list[str]:
    command: list[str] = json.loads(annotations[f"{phase}.hook.backup.velero.io/command"])
    return command


class Backup:
    """A backup of namespace `prod` that is filled step by step."""

    def __init__(self, *, as_json: bool = False, level: str = "info", **spec: Any) -> None:
        self.log: VeleroLog | None = VeleroLog(as_json=as_json, level=level)
        self.contents = BackupContents(UPSTREAM)
        self.spec, self.status = spec, {"phase": "Completed", "hookStatus": {}}

    def pod(self, vm: str, annotations: Mapping[str, str] | None, *, phase: str = "Running", name: str = "x") -> str:
        """A launcher pod in the archive."""
        pod_name = f"virt-launcher-{vm}-{name}"
        owner = make_owner(name=vm)
        pod = make_pod(name=pod_name, namespace=NS, annotations=dict(annotations or {}), ownerReferences=[owner])
        self.put("pods", pod_name, {**pod, "status": {"phase": phase}})
        return pod_name

    def put(self, resource: str, name: str, obj: object) -> None:
        """Any object, under both of the paths that Velero gives it."""
        for folder in (resource, f"{resource}/v1-preferredversion"):
            path = f"resources/{folder}/namespaces/{NS}/{name}.json"
            if self.contents.wants(path):
                self.contents.take(path, json.dumps(obj).encode())

    def vm(self, name: str, printable: str = "Running") -> None:
        self.put("virtualmachines.kubevirt.io", name, {"status": {"printableStatus": printable}})

    def vmi(self, name: str, phase: str = "Running") -> None:
        self.put("virtualmachineinstances.kubevirt.io", name, {"status": {"phase": phase}})

    def run(self, annotations: Mapping[str, str], phase: str, **how: Any) -> None:
        """A hook in the log."""
        assert self.log
        self.log.hook(phase, argv(annotations, phase), **how)
        self.log.at += 2

    def freeze(self, annotations: Mapping[str, str], stderr: str = DONE) -> None:
        """Pre and post hook with virt-freezer's output."""
        self.run(annotations, "pre", stderr=stderr)
        self.run(annotations, "post", stderr=stderr)

    def report(self) -> BackupReport:
        raw = {"metadata": {"namespace": "velero", "name": "nightly"}, "spec": self.spec, "status": self.status}
        return report(BackupView.from_object(raw), self.contents, read_hook_log(self.log.lines) if self.log else None)

    def only(self) -> VmReport:
        [vm] = self.report().vms
        return vm


@pytest.fixture(params=[False, True], ids=["text", "json"])
def backup(request: pytest.FixtureRequest) -> Backup:
    return Backup(as_json=request.param)


def told(vm: VmReport) -> tuple[str | None, Achieved, bool, int | None, int | None, bool]:
    return vm.level, vm.outcome.achieved, vm.outcome.verified, vm.attempted, vm.failed, vm.finding


def test_every_vm_its_own(backup: Backup) -> None:
    db, web, old = hooks("db"), hooks("web", settings=Hooks(require_frozen=True)), hooks("old", Level.CRASH)
    for name, annotations in {"db": db, "web": web, "old": old}.items():
        backup.pod(name, annotations)
        backup.vm(name)
        backup.vmi(name)
    backup.freeze(db, NO_AGENT)
    backup.run(web, "pre", stdout=DONE + "vm-consistency: frozen\n")
    backup.run(web, "post", stdout=DONE + HELD)

    made = backup.report()

    assert [vm.name for vm in made.vms] == ["db", "old", "web"]
    assert [told(vm) for vm in made.vms] == [
        ("filesystem", NOT_FROZEN, False, 2, 0, True),
        ("crash", NOT_FROZEN, False, 0, 0, False),
        ("filesystem", FROZEN, True, 2, 0, False),
    ]
    assert made.vms[0].notes == ["virt-freezer did nothing: No guest agent, exiting"]
    assert [vm.notes for vm in made.vms[1:]] == [[], []]
    assert {(vm.record, vm.decided_by) for vm in made.vms} == {(RecordState.INTACT, "rule/databases")}
    assert not made.is_fine


def test_frozen_by_virt_freezer_s_word(backup: Backup) -> None:
    backup.pod("db", hooks("db"))
    backup.freeze(hooks("db"))

    vm = backup.only()

    assert told(vm) == ("filesystem", FROZEN, False, 2, 0, False)
    assert (vm.outcome.seconds, vm.notes) == (2, [])
    assert backup.report().is_fine


def test_kubevirt_s_own_hooks_without_a_record(backup: Backup) -> None:
    own = kubevirt_hooks(NS, "db", UPSTREAM)
    backup.pod("db", own)
    backup.freeze(own, NO_AGENT)

    vm = backup.only()

    assert (vm.level, vm.record, vm.outcome.achieved, vm.finding) == (None, RecordState.NONE, NOT_FROZEN, True)


def test_no_hook_ran_in_a_backup_by_label(backup: Backup) -> None:
    backup.spec = {"labelSelector": {"matchLabels": {"app": "db"}}}
    backup.pod("db", hooks("db"))

    vm = backup.only()

    assert told(vm) == ("filesystem", NOT_FROZEN, False, 0, 0, True)
    [note] = vm.notes
    assert note.startswith("no hook ran: the backup selects by labels")


def test_no_hook_ran_without_a_selector(backup: Backup) -> None:
    backup.pod("db", hooks("db"))

    [note] = backup.only().notes
    assert note.startswith("no hook ran: Velero runs none in a pod that comes in through its VM")


def test_pods_that_have_completed_do_not_count(backup: Backup) -> None:
    backup.pod("db", hooks("db"), phase="Succeeded", name="source")
    backup.pod("db", hooks("db"), name="target")
    assert backup.log
    backup.log.skipped("pre", argv(hooks("db"), "pre"))
    backup.freeze(hooks("db"))
    backup.log.skipped("post", argv(hooks("db"), "post"))

    vm = backup.only()

    assert told(vm) == ("filesystem", FROZEN, False, 2, 0, False)
    assert (vm.pods, vm.completed_pods) == (["virt-launcher-db-target"], 1)
    [note] = backup.report().notes
    assert note.startswith("2 of the hooks that Velero counts did not run")


def test_both_pods_of_a_migration(backup: Backup) -> None:
    """The source refuses, the target has no guest yet: nothing is frozen."""
    migrating = freezer_line("Freezing VMI failed", "error", reason="VMI is currently during migration")
    for name in ("source", "target"):
        backup.pod("db", hooks("db"), name=name)
    backup.run(hooks("db"), "pre", stderr=migrating, error=EXIT_1)
    backup.run(hooks("db"), "pre", stderr=NO_AGENT)
    backup.run(hooks("db"), "post", stderr=DONE)
    backup.run(hooks("db"), "post", stderr=NO_AGENT)

    vm = backup.only()

    assert told(vm) == ("filesystem", NOT_FROZEN, False, 4, 1, True)
    assert any("during migration" in note for note in vm.notes)


def test_a_migration_that_is_over_in_one_of_two_pods(backup: Backup) -> None:
    for name in ("source", "target"):
        backup.pod("db", hooks("db"), name=name)
    backup.run(hooks("db"), "pre", stderr=NO_AGENT)
    backup.run(hooks("db"), "pre", stderr=DONE)
    backup.run(hooks("db"), "post", stderr=NO_AGENT)
    backup.run(hooks("db"), "post", stderr=DONE)

    assert told(backup.only()) == ("filesystem", FROZEN, False, 4, 0, False)


def test_under_fail_only_the_pods_that_froze_are_thawed(backup: Backup) -> None:
    for name in ("source", "target"):
        backup.pod("db", hooks("db"), name=name)
    backup.run(hooks("db"), "pre", stderr="gone", error=EXIT_1, on_error="Fail")
    backup.run(hooks("db"), "pre", stderr=DONE, on_error="Fail")
    backup.run(hooks("db"), "post", stderr=DONE, on_error="Fail")

    assert told(backup.only()) == ("filesystem", FROZEN, False, 3, 1, True)


def test_under_continue_all_are_thawed(backup: Backup) -> None:
    for name in ("source", "target"):
        backup.pod("db", hooks("db"), name=name)
    backup.run(hooks("db"), "pre", stderr="gone", error=EXIT_1)
    backup.run(hooks("db"), "pre", stderr=DONE)
    backup.run(hooks("db"), "post", stderr=DONE)
    backup.run(hooks("db"), "post", stderr=NO_AGENT)

    assert told(backup.only()) == ("filesystem", UNKNOWN, False, 4, 1, True)


def test_pods_of_a_migration_across_a_change_of_level(backup: Backup) -> None:
    backup.pod("db", hooks("db", Level.CRASH), name="source")
    backup.pod("db", hooks("db"), name="target")
    backup.freeze(hooks("db"))

    vm = backup.only()

    assert (vm.expected, vm.outcome.achieved) == (True, FROZEN)
    assert vm.notes == ["its pods carry different levels"]


def test_hooks_of_others_that_do_not_freeze(backup: Backup) -> None:
    """Nobody asked for a freeze where there is no record."""
    backup.pod("db", {PRE + "command": '["/bin/sync"]'})
    assert backup.log
    backup.log.hook("pre", ["/bin/sync"])

    vm = backup.only()

    assert (vm.record, vm.expected, vm.outcome.achieved, vm.finding) == (RecordState.NONE, False, UNKNOWN, False)


def test_hooks_that_do_not_fit_the_record(backup: Backup) -> None:
    changed = {**hooks("db"), PRE + "timeout": "1s"}
    backup.pod("db", changed)
    backup.freeze(changed)

    vm = backup.only()

    assert (vm.record, vm.outcome.achieved, vm.finding) == (RecordState.FOREIGN, FROZEN, True)
    assert vm.notes == ["the hooks don't fit the record: somebody else wrote on the pod after vm-consistency"]


def test_hooks_that_are_gone_although_the_record_asks_for_them(backup: Backup) -> None:
    record = {key: value for key, value in hooks("db").items() if "hook.backup" not in key}
    assert HOOKS_DIGEST in record
    backup.pod("db", record)

    vm = backup.only()

    assert told(vm) == ("filesystem", NOT_FROZEN, False, 0, 0, True)
    assert vm.notes[0] == "no pre hook stands on the pod"


def test_freezing_hooks_beside_a_record_of_crash(backup: Backup) -> None:
    """Whoever put them there expects a freeze."""
    foreign = {**hooks("db", Level.CRASH), **kubevirt_hooks(NS, "db", UPSTREAM)}
    backup.pod("db", foreign)
    backup.freeze(foreign, NO_AGENT)

    vm = backup.only()

    assert (vm.level, vm.expected, vm.outcome.achieved, vm.finding) == ("crash", True, NOT_FROZEN, True)


def test_a_pre_hook_that_failed_under_fail_takes_its_pod_out(backup: Backup) -> None:
    annotations = hooks("db", settings=Hooks(require_frozen=True))
    why = "vm-consistency: pre hook failed: freeze: the guest does not report frozen\n"
    backup.vm("db")
    backup.vmi("db")
    backup.run(annotations, "pre", stderr=why, error=EXIT_1, on_error="Fail")

    vm = backup.only()

    assert told(vm) == (None, NOT_FROZEN, False, 1, 1, True)
    assert (vm.record, vm.pods) == (None, [])
    assert "the guest does not report frozen" in vm.notes[0]
    assert "under on-error Fail Velero leaves it out" in vm.notes[1]


def test_two_hooks_that_failed(backup: Backup) -> None:
    annotations = hooks("db", settings=Hooks(require_frozen=True))
    backup.pod("db", annotations)
    for phase, why in {"pre": "quiesce: the database is busy", "post": "nothing was held"}.items():
        backup.run(annotations, phase, stderr=f"vm-consistency: {phase} hook failed: {why}\n", error=EXIT_1)

    vm = backup.only()

    assert told(vm) == ("filesystem", NOT_FROZEN, False, 2, 2, True)
    assert vm.notes == ["pre hook failed: quiesce: the database is busy", "post hook failed: nothing was held"]


def test_a_pod_that_is_not_in_the_backup_at_all(backup: Backup) -> None:
    backup.vmi("db")

    vm = backup.only()

    assert told(vm) == (None, UNKNOWN, False, 0, 0, True)
    assert vm.notes == ["the guest ran, but neither its launcher pod is in the backup nor a hook of it in the log"]


@pytest.mark.parametrize(
    ("machine", "instance"),
    [("Stopped", None), (None, "Succeeded"), ("Starting", "Scheduling"), ("", None), ("Provisioning", None)],
)
def test_a_vm_that_does_not_run(backup: Backup, machine: str | None, instance: str | None) -> None:
    if machine is not None:
        backup.vm("db", machine)
    if instance is not None:
        backup.vmi("db", instance)

    assert told(backup.only()) == (None, NOT_RUNNING, False, 0, 0, False)


def test_a_vm_that_ended_while_its_pod_is_still_there(backup: Backup) -> None:
    backup.pod("db", hooks("db"), phase="Failed")
    backup.vmi("db", "Failed")

    vm = backup.only()

    assert told(vm) == (None, NOT_RUNNING, False, 0, 0, False)
    assert vm.completed_pods == 1


def test_without_a_log() -> None:
    backup = Backup()
    backup.log = None
    backup.pod("db", hooks("db"))
    backup.pod("old", hooks("old", Level.CRASH))

    made = backup.report()

    assert [told(vm) for vm in made.vms] == [
        ("filesystem", UNKNOWN, False, None, None, True),
        ("crash", NOT_FROZEN, False, 0, 0, False),
    ]
    assert made.notes == ["the backup has no log: what its hooks did is not known"]


def test_without_a_log_velero_s_count_of_failures_stays() -> None:
    backup = Backup()
    backup.log = None
    backup.status["hookStatus"] = {"hooksAttempted": 2, "hooksFailed": 1}

    assert backup.report().findings == ["the backup has no log; Velero counts 1 failed hook(s)"]


def test_a_log_without_the_lines_of_hooks() -> None:
    backup = Backup(level="warning")
    backup.pod("db", hooks("db"))
    backup.freeze(hooks("db"))

    made = backup.report()

    assert told(made.vms[0]) == ("filesystem", UNKNOWN, False, None, None, True)
    assert "--log-level" in made.notes[0]


def test_a_hook_that_could_not_start(backup: Backup) -> None:
    backup.pod("db", hooks("db"))
    assert backup.log
    backup.log.failure("pre", 'no such container: "compute"')

    made = backup.report()

    assert made.vms[0].outcome.achieved is UNKNOWN
    assert made.findings == ['in a pod that Velero does not name: pre hook: no such container: "compute"']


def test_failures_that_only_velero_counts(backup: Backup) -> None:
    backup.pod("db", hooks("db"))
    backup.freeze(hooks("db"))
    backup.status["hookStatus"] = {"hooksAttempted": 3, "hooksFailed": 1}

    assert backup.report().findings == ["Velero counts 1 failed hook(s), its log shows 0"]


def test_hooks_that_do_nothing_on_purpose(backup: Backup) -> None:
    noop = Hooks(crash_noop=True)
    for vm in ("a", "b"):
        backup.pod(vm, hooks(vm, Level.CRASH, noop))
    for phase in ("pre", "post", "pre", "post"):
        backup.run(hooks("a", Level.CRASH, noop), phase)

    assert [told(vm) for vm in backup.report().vms] == [("crash", NOT_FROZEN, False, 2, 0, False)] * 2


def test_hooks_that_do_nothing_where_not_every_pod_had_one(backup: Backup) -> None:
    noop = Hooks(crash_noop=True)
    for vm in ("a", "b"):
        backup.pod(vm, hooks(vm, Level.CRASH, noop))
    backup.run(hooks("a", Level.CRASH, noop), "pre")

    assert [told(vm) for vm in backup.report().vms] == [("crash", NOT_FROZEN, False, None, None, False)] * 2


def test_hooks_that_do_nothing_of_which_one_failed(backup: Backup) -> None:
    """Which pod it was in does not show; the failure does."""
    noop = Hooks(crash_noop=True)
    for vm in ("a", "b"):
        backup.pod(vm, hooks(vm, Level.CRASH, noop))
    backup.run(hooks("a", Level.CRASH, noop), "pre")
    backup.run(hooks("a", Level.CRASH, noop), "pre", error=EXIT_1)

    made = backup.report()

    assert [told(vm) for vm in made.vms] == [("crash", NOT_FROZEN, False, None, None, False)] * 2
    assert made.findings == [f"in a pod that Velero does not name: pre hook: {EXIT_1}"]


def test_hooks_of_the_backup_s_own_spec(backup: Backup) -> None:
    """They name no VM, and those of a pod without hooks at level crash are not expected to freeze."""
    backup.pod("db", hooks("db", Level.CRASH))
    assert backup.log
    backup.log.hook("pre", ["/bin/sync"], source="spec")

    assert told(backup.only()) == ("crash", NOT_FROZEN, False, 0, 0, False)


def test_a_hook_of_the_backup_s_own_spec_that_failed(backup: Backup) -> None:
    backup.pod("db", hooks("db", Level.CRASH))
    assert backup.log
    backup.log.hook("post", ["/bin/sync"], source="spec", stderr="no\x1b[2J room\n", error=EXIT_1)

    made = backup.report()

    assert not made.is_fine
    assert made.findings == [r"in a pod that Velero does not name: post hook: no\x1b[2J room"]  # as text


def test_a_legacy_hook(backup: Backup) -> None:
    legacy = {
        "hook.backup.velero.io/command": '["/usr/bin/virt-freezer","--freeze","--name","db","--namespace","prod"]'
    }
    backup.pod("db", legacy)
    assert backup.log
    backup.log.hook("pre", json.loads(legacy["hook.backup.velero.io/command"]), stderr=DONE)

    vm = backup.only()

    assert (vm.outcome.achieved, vm.attempted) == (UNKNOWN, 1)
    assert vm.notes == ["frozen, but no post hook ran: when the guest was thawed is not known"]


def test_two_pods_with_one_name_in_two_namespaces(backup: Backup) -> None:
    backup.pod("db", hooks("db"))
    backup.freeze(hooks("db", ns="other"))

    here, other = sorted(backup.report().vms, key=lambda vm: vm.namespace != NS)

    assert told(here) == ("filesystem", NOT_FROZEN, False, 0, 0, True)
    assert (other.namespace, other.name, other.outcome.achieved) == ("other", "db", FROZEN)
    assert other.notes == ["its launcher pod, and with it the record, is not in the backup"]


def test_velero_before_1_15_names_the_pod(backup: Backup) -> None:
    noop = Hooks(crash_noop=True)
    pods = {vm: backup.pod(vm, hooks(vm, Level.CRASH, noop)) for vm in ("a", "b")}
    backup.run(hooks("a", Level.CRASH, noop), "pre", pod=(NS, pods["b"]), error=EXIT_1)

    assert [(vm.name, vm.attempted, vm.failed) for vm in backup.report().vms] == [("a", None, None), ("b", 1, 1)]


def test_what_tenants_write_is_fit_for_a_terminal(backup: Backup) -> None:
    backup.pod("db", {**hooks("db"), "vm-consistency.io/effective-level": "crash\x1b[2J\u202e" + "x" * 1000})

    vm = backup.only()

    assert vm.level is not None
    assert vm.level.isprintable()
    assert len(vm.level) <= 100


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"status": 1}', b"\xff", b"null", b"[" * 50_000, None])
def test_objects_that_can_not_be_read_are_told(content: bytes | None) -> None:
    backup = Backup()
    path = f"resources/pods/namespaces/{NS}/x.json"
    backup.contents.take(path, content)
    backup.contents.take("resources/virtualmachineinstances.kubevirt.io/namespaces/prod/vm.json", content)

    [finding] = backup.report().findings
    assert finding.startswith("2 object(s) of the backup can't be read: ")
    assert path in finding


def test_pods_of_others_are_nobody_s(backup: Backup) -> None:
    backup.put("pods", "web", make_pod(name="web", labels={}) | {"status": {"phase": "Running"}})

    assert backup.report().vms == []


@pytest.mark.parametrize(
    "path",
    [
        "resources/pods/v1-preferredversion/namespaces/prod/x.json",
        "resources/secrets/namespaces/prod/x.json",
        "resources/pods/cluster/x.json",
        "metadata/version",
        "resources/pods/namespaces/prod/x",
        "resources/pods/namespaces/prod/a/x.json",
        "/etc/passwd",
        "",
    ],
)
def test_other_members_are_not_wanted(path: str) -> None:
    assert not BackupContents(UPSTREAM).wants(path)


def test_the_kinds_of_a_fork() -> None:
    contents = BackupContents(KubeVirtNames(api_group="virt.example.com", kind_prefix="Internal"))

    assert contents.wants("resources/internalvirtualmachines.virt.example.com/namespaces/prod/x.json")
    assert not contents.wants("resources/virtualmachines.kubevirt.io/namespaces/prod/x.json")


@pytest.mark.parametrize("raw", [{}, {"status": None, "spec": []}, {"status": {"hookStatus": 1, "phase": None}}])
def test_a_backup_object_of_any_shape(raw: Object) -> None:
    view = BackupView.from_object(raw)

    assert (view.phase, view.by_label) == ("New", False)


def test_a_backup_object() -> None:
    view = BackupView.from_object(
        {
            "metadata": {"name": "nightly", "namespace": "velero"},
            "spec": {"orLabelSelectors": [{}]},
            "status": {
                "phase": "FailedValidation",
                "validationErrors": ["no\nlocation", "no name"],
                "hookStatus": {"hooksAttempted": 2},
            },
        }
    )

    assert (view.hooks_attempted, view.hooks_failed, view.by_label) == (2, 0, True)
    assert view.reason == "no location; no name"
