"""The full API server, and the product beside it in three configurations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.recording import Recording, record
from tests.bench.rivals import RIVALS
from tests.bench.scale.fill import fill, machines
from tests.bench.scale.sender import Sender
from tests.bench.stage import admin_token
from tests.infra.controlplane import ControlPlane
from tests.infra.controlplane.build import ensure
from tests.infra.controlplane.servers import write_private
from tests.infra.installation import NAME, NAMESPACE, Installation, Replica

Policy = Mapping[str, object]

FILESYSTEM: Policy = {"default": {"level": "filesystem"}}
"""What holds between the flips."""

FLIPS: Mapping[str, Policy] = {
    "timeout": {**FILESYSTEM, "hooks": {"freeze": {"timeout": "75s"}}},
    "level": {"default": {"level": "crash"}},
}
"""Policies that change the hooks of every pod: a little, and all of them with an Event each."""

UNCHANGED: Policy = {
    **FILESYSTEM,
    "rules": [{"name": "nobody", "match": {"namespaces": ["no-such-*"]}, "level": "crash"}],
}
"""Another policy under which every pod stays as it is."""

CONCURRENCY = 8
"""Of the product's writes, its default, and of the bare client's."""

# The API server compacts what is older than its interval; the default of 5 minutes lets etcd reach its quota of 2 GB.
_APISERVER_FLAGS = ["--etcd-compaction-interval=1m"]


@dataclass(frozen=True)
class ScaleStage:
    """One replica runs at a time, or none."""

    control_plane: ControlPlane
    installation: Installation
    recording: Recording
    bare: Sender
    """With the product's own ServiceAccount: the same authorization, and like the product's no review of its writes."""
    admin: Sender
    pods: int
    leader: Replica
    """Without a limit to its writes."""
    follower: Replica
    """Serves reviews as any other, and never leads: its Lease does not exist."""
    gentle: Replica
    """As shipped."""

    @contextmanager
    def running(self, replica: Replica) -> Iterator[None]:
        """Run a replica that was started already, and stop it at the end."""
        try:
            yield
        finally:
            replica.process.stop()


@contextmanager
def scale_stage(count: int) -> Iterator[ScaleStage]:
    """Start and fill everything, `count` objects of each kind; nothing is left afterwards."""
    ensure(RIVALS)
    with ControlPlane(audit_level="None", apiserver_flags=_APISERVER_FLAGS) as control_plane:
        recording = record(control_plane)
        admin = make_sender(control_plane, "admin", admin_token(control_plane))
        fill(control_plane.client, admin, recording, machines(count))
        installation = Installation(control_plane)
        installation.apply()
        installation.set_policy(FILESYSTEM)
        unlimited = {"VM_CONSISTENCY_RECONCILE_RATE": "0", "VM_CONSISTENCY_RECONCILE_CONCURRENCY": str(CONCURRENCY)}
        yield ScaleStage(
            control_plane,
            installation,
            recording,
            make_sender(control_plane, NAME, control_plane.token_for(NAMESPACE, NAME, seconds=24 * 3600)),
            admin,
            count + 1,  # the recorded one
            installation.replica(env=unlimited),
            installation.replica(env={**unlimited, "VM_CONSISTENCY_LEASE": "no-such-lease"}),
            installation.replica(),
        )


def make_sender(control_plane: ControlPlane, name: str, token: str) -> Sender:
    """A sender with a token; `name` is that of the file it is written to."""
    path: Path = write_private(control_plane.folder / f"{name}.token", token)
    return Sender(control_plane.url, control_plane.ca_file, path)
