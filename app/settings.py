"""Settings of the process, from the environment."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.kubevirt_names import UPSTREAM, KubeVirtNames

_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""Of an object in the cluster. An empty one would make a watch of one object a watch of all."""


class Settings(BaseSettings):
    """Read from environment variables `VM_CONSISTENCY_<NAME>`; times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="VM_CONSISTENCY_", frozen=True, extra="forbid")

    namespace: _Name = "vm-consistency"
    service: _Name = "vm-consistency"
    webhook_configuration: _Name = "vm-consistency"
    certificate_secret: _Name = "vm-consistency-certs"  # noqa: S105 - the name of a Secret
    policy_config_map: _Name = "vm-consistency-policy"
    last_good_config_map: _Name = "vm-consistency-last-good"
    lease: _Name = "vm-consistency"

    host: str = ""
    """Empty: every address of both families, as a pod is reached on its own, which may be of either."""
    port: int = Field(default=8443, ge=0, le=65535)
    ops_port: int = Field(default=8080, ge=0, le=65535)
    extra_sans: str = ""
    """Comma-separated DNS names or IP addresses, beside those of the Service, that the certificate is made for."""
    deadline: float = Field(default=2.0, gt=0, le=30)
    """For one review; below the webhook's timeoutSeconds, so that our own answer arrives in time."""
    drain_delay: float = Field(default=5.0, ge=0, le=300)
    """How long to go on serving after SIGTERM, until no API server sends reviews any more."""
    excluded_namespaces: str = "kube-system,kube-public,kube-node-lease"
    """Comma-separated; running pods there are left alone, as in our own. The registration leaves out the same ones."""
    reconcile_rate: float = Field(default=100.0, ge=0, le=10_000)
    """Writes per second to running pods; 0 sets no limit."""
    reconcile_concurrency: int = Field(default=8, ge=1, le=100)
    """Writes to running pods under way at once."""
    policy_grace: float = Field(default=300.0, ge=0, le=86_400)
    """How long running pods keep to a policy that was deleted."""
    agent_grace: float = Field(default=300.0, ge=0, le=86_400)
    """How long a running guest may be without its agent before that is told."""
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)] = "INFO"

    kubeconfig: Path | None = None
    context: str | None = None

    kubevirt_api_group: str = UPSTREAM.api_group
    kubevirt_kind_prefix: str = UPSTREAM.kind_prefix
    kubevirt_launcher_label: str = UPSTREAM.launcher_label
    kubevirt_launcher_label_value: str = UPSTREAM.launcher_label_value
    kubevirt_ephemeral_annotation: str = UPSTREAM.ephemeral_annotation
    kubevirt_skip_annotation: str = UPSTREAM.skip_annotation
    kubevirt_container: str = UPSTREAM.container
    kubevirt_freezer: str = UPSTREAM.freezer

    @cached_property
    def names(self) -> KubeVirtNames:
        """The names of KubeVirt, or of the fork that runs in this cluster."""
        return KubeVirtNames(
            api_group=self.kubevirt_api_group,
            kind_prefix=self.kubevirt_kind_prefix,
            launcher_label=self.kubevirt_launcher_label,
            launcher_label_value=self.kubevirt_launcher_label_value,
            ephemeral_annotation=self.kubevirt_ephemeral_annotation,
            skip_annotation=self.kubevirt_skip_annotation,
            container=self.kubevirt_container,
            freezer=self.kubevirt_freezer,
        )

    @cached_property
    def spared_namespaces(self) -> frozenset[str]:
        """The namespaces whose pods are none of ours."""
        named = (name.strip() for name in self.excluded_namespaces.split(","))
        return frozenset({self.namespace, *filter(None, named)})

    @cached_property
    def serving_names(self) -> tuple[str, ...]:
        """DNS names and addresses that the serving certificate must cover."""
        service = f"{self.service}.{self.namespace}"
        extra = (name.strip() for name in self.extra_sans.split(","))
        return (f"{service}.svc", service, f"{service}.svc.cluster.local", *(name for name in extra if name))
