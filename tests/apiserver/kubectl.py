"""What people type, and what they are told."""

import os
import subprocess
from dataclasses import dataclass

import yaml

from tests.infra.controlplane import ApiError, ControlPlane, Json, wait_for
from tests.infra.controlplane.build import ensure_all
from tests.infra.installation import NAMESPACE, POLICY, Installation

PREFIX = "Warning: vm-consistency: "


@dataclass(frozen=True)
class Typed:
    """The outcome of a command."""

    status: int
    stdout: str
    stderr: str

    @property
    def warnings(self) -> list[str]:
        """What the webhook had to say, besides a denial."""
        return [line.removeprefix(PREFIX) for line in self.stderr.splitlines() if line.startswith(PREFIX)]


def kubectl(control_plane: ControlPlane, *args: str, objects: list[Json] | None = None) -> Typed:
    """Run kubectl as the cluster's administrator; `objects` are what `-f -` reads."""
    ran = subprocess.run(
        [ensure_all("kubernetes")["kubectl"], "--kubeconfig", control_plane.kubeconfig, *args],
        input=yaml.safe_dump_all(objects or []),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KUBECACHEDIR": str(control_plane.folder / "kubectl-cache")},
    )
    return Typed(ran.returncode, ran.stdout, ran.stderr)


def policy_config_map(text: str | None, **fields: object) -> Json:
    """The policy's ConfigMap, with these fields besides or instead."""
    data = {} if text is None else {"data": {"policy.yaml": text}}
    metadata = {"name": POLICY, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **data, **fields}


def validate_again(installation: Installation) -> None:
    """Let the first replica validate, and return when the API server calls it and trusts it."""
    installation.validate_by(installation.replicas[0].port)

    def denied() -> bool:
        try:
            patch = {"data": {"policy.yaml": "nonsense"}}
            installation.cp.client.patch("configmaps", POLICY, patch, NAMESPACE, dry_run=True)
        except ApiError as error:
            return error.status == 422
        return False

    wait_for(denied, what="the API server to have policies validated")
