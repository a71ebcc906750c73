"""The annotations on pods, VMs, Namespaces and the policy's ConfigMap, and who reads each."""

from typing import Final

PREFIX: Final = "vm-consistency.io/"

# What people write on a VirtualMachine, its template or a Namespace.
LEVEL: Final = PREFIX + "level"
PROFILE: Final = PREFIX + "profile"
MANAGED: Final = PREFIX + "managed"

# The record: what this product wrote on the pod and why. Velero stores it with every backup.
EFFECTIVE_LEVEL: Final = PREFIX + "effective-level"
EFFECTIVE_PROFILE: Final = PREFIX + "effective-profile"
DECIDED_BY: Final = PREFIX + "decided-by"
HOOKS_DIGEST: Final = PREFIX + "hooks-digest"
RECORD_KEYS: Final = (EFFECTIVE_LEVEL, EFFECTIVE_PROFILE, DECIDED_BY, HOOKS_DIGEST)

# The state of the policy, on its ConfigMap, written by the leading replica for its admin.
POLICY_STATE: Final = PREFIX + "policy-state"
POLICY_ACCEPTED: Final = PREFIX + "policy-accepted"
POLICY_ERROR: Final = PREFIX + "policy-error"
POLICY_TIME: Final = PREFIX + "policy-time"

# Read by Velero when a backup starts (velero v1.18, internal/hook/item_hook_handler.go).
PRE: Final = "pre.hook.backup.velero.io/"
POST: Final = "post.hook.backup.velero.io/"
LEGACY: Final = "hook.backup.velero.io/"  # pre phase only, and only where the pre command is absent
COMMAND: Final = "command"
CONTAINER: Final = "container"
ON_ERROR: Final = "on-error"
TIMEOUT: Final = "timeout"
HOOK_KEYS: Final = tuple(
    phase + field for phase in (PRE, POST, LEGACY) for field in (COMMAND, CONTAINER, ON_ERROR, TIMEOUT)
)

# The keys that KubeVirt writes and, from 1.6.6, 1.7.3 and 1.8.0 on, writes back at every reconcile of the
# VirtualMachineInstance (kubevirt v1.8.4, pkg/storage/velero/annotations.go).
KUBEVIRT_HOOK_KEYS: Final = (PRE + CONTAINER, PRE + COMMAND, PRE + TIMEOUT, POST + CONTAINER, POST + COMMAND)

OWN_KEYS: Final = HOOK_KEYS + RECORD_KEYS

MAX_ANNOTATIONS_BYTES: Final = 256 * 1024
"""All keys and values of one object together (apimachinery, pkg/api/validation/objectmeta.go)."""

MAX_WARNING_CHARS: Final = 256
"""One entry of AdmissionResponse.warnings; kube-apiserver may cut longer ones (admission.k8s.io/v1)."""
