"""What `kubectl kustomize manifests/overlays/default` prints, as objects."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.infra.controlplane.build import ensure_all

MANIFESTS = Path(__file__).parents[2] / "manifests"
DEFAULT = MANIFESTS / "overlays" / "default"

Object = dict[str, Any]


def kustomize(folder: Path) -> list[Object]:
    """Build a kustomization with kubectl; raises CalledProcessError with its complaint in `stderr`."""
    kubectl = _kubectl()
    built = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(built.stdout))


@cache
def _kubectl() -> Path:
    return ensure_all("kubernetes")["kubectl"]


class Overlay:
    """The objects of one build, found by kind and name."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def the(self, kind: str, name: str = "vm-consistency") -> Object:
        """The one object of that kind and name."""
        [found] = [one for one in self.objects if one["kind"] == kind and one["metadata"]["name"] == name]
        return found

    @property
    def pod_spec(self) -> Object:
        """The spec of the Deployment's pods."""
        spec: Object = self.the("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Object:
        """The only container of those pods."""
        [container] = self.pod_spec["containers"]
        return dict(container)

    @property
    def webhook(self) -> Object:
        """The only webhook of the MutatingWebhookConfiguration."""
        [webhook] = self.the("MutatingWebhookConfiguration")["webhooks"]
        return dict(webhook)

    def validating(self, name: str) -> Object:
        """The webhook of the ValidatingWebhookConfiguration for `policy` or `annotations`."""
        webhooks = self.the("ValidatingWebhookConfiguration")["webhooks"]
        [webhook] = [one for one in webhooks if one["name"] == f"{name}.vm-consistency.io"]
        return dict(webhook)

    @property
    def webhooks(self) -> list[Object]:
        """All of both configurations."""
        return [self.webhook, self.validating("policy"), self.validating("annotations")]
