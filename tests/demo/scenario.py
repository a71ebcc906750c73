"""The cluster of the demo: what `record` has recorded, and what `cluster` shows live."""

from app.core.annotations import LEVEL, POST, PRE, PROFILE
from app.core.kubevirt_names import UPSTREAM
from tests.infra.controlplane import Json, make_namespace, make_vm

_FREEZER = '["/usr/bin/virt-freezer", "--{}freeze", "--name", "howto", "--namespace", "lab"{}'
HOW_TO = {
    PRE + "container": "compute",
    PRE + "command": _FREEZER.format("", ""),  # the published article lacks the closing bracket
    PRE + "on-error": "Fail",
    PRE + "timeout": "30s",
    POST + "container": "compute",
    POST + "command": _FREEZER.format("un", "]"),
    POST + "timeout": "180s",
}
"""Hooks that published how-to articles have people write into the template of a VM, mistake included."""

_SKIP = {UPSTREAM.skip_annotation: "true"}
"""In the template too: KubeVirt copies the VM's own to the instance only after the first pod was created."""

_RESTORED = {"velero.io/backup-name": "nightly", "velero.io/restore-name": "nightly-1"}
"""The labels by which Velero marks what it restores; it creates no launcher pods, so KubeVirt makes new ones."""
_POSTGRESQL = {LEVEL: "application", PROFILE: "postgresql"}

NAMESPACES = (
    make_namespace("shop", labels={"environment": "production"}),
    make_namespace("restored", labels={"environment": "production", **_RESTORED}),
    make_namespace("dev-anna"),
    make_namespace("archive", annotations={LEVEL: "crash"}),
    make_namespace("lab"),
)

VMS: tuple[Json, ...] = (
    make_vm("web", "shop"),
    make_vm("db", "shop", annotations=_POSTGRESQL),
    make_vm("test", "dev-anna"),
    make_vm("notes", "dev-anna", template_annotations={LEVEL: "filesystem"}),
    make_vm("mail.v1", "archive"),
    make_vm("plain", "lab"),
    make_vm("greedy", "dev-anna", annotations=_POSTGRESQL),
    make_vm("cart", "shop", annotations={LEVEL: "crash"}),
    make_vm("howto", "lab", template_annotations=HOW_TO),
    make_vm("howto-only", "lab", annotations=_SKIP, template_annotations={**HOW_TO, **_SKIP}),
    make_vm("web", "restored", labels=_RESTORED),
)
