"""What the demo shows, in the order of its table; VMs are called NAMESPACE/NAME."""

from pathlib import Path

_HERE = Path(__file__).parent
POLICY = _HERE / "policy.yaml"
NEXT_POLICY = _HERE / "next-policy.yaml"
"""Takes the place of POLICY while the webhook runs."""

CREATED = (
    (
        "CREATE: KubeVirt creates the launcher pods of new VMs",
        ("shop/web", "shop/db", "dev-anna/test", "dev-anna/notes", "archive/mail.v1", "lab/plain"),
    ),
    ("CREATE: VMs that ask for what the policy does not allow them", ("dev-anna/greedy", "shop/cart")),
    (
        "CREATE: VMs whose template has the malformed hooks of how-to articles (KubeVirt replaces the commands, "
        "except where kubevirt.io/skip-backup-hooks is set, as on howto-only)",
        ("lab/howto", "lab/howto-only"),
    ),
    ("CREATE: a VM as Velero restores it into another namespace, which its hooks then name", ("restored/web",)),
)
"""Titles, and the VMs whose pods are created."""

RESYNCED = ("shop/db", "archive/mail.v1")
"""VMs whose hooks are others than KubeVirt's own, so that its re-sync writes to their pods."""
RESYNC = "UPDATE: KubeVirt's re-sync writes its own hooks to running pods; the webhook restores what was there"

CHANGED = ("shop/web", "shop/db", "lab/plain")
"""VMs that are shown again under NEXT_POLICY."""
