"""Settings: from the environment, checked before anything starts."""

import dataclasses

import pytest
from pydantic import ValidationError

from app.core.kubevirt_names import UPSTREAM
from app.settings import Settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings of the machine's own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"VM_CONSISTENCY_{name.upper()}", raising=False)
    return monkeypatch


def test_the_defaults_are_those_of_the_manifests() -> None:
    settings = Settings()

    assert (settings.namespace, settings.service, settings.webhook_configuration) == ("vm-consistency",) * 3
    assert (settings.port, settings.ops_port) == (8443, 8080)
    assert settings.names == UPSTREAM


def test_every_setting_is_read_from_its_variable(environment: pytest.MonkeyPatch) -> None:
    values = {
        "namespace": "backup",
        "policy_config_map": "levels",
        "port": "9443",
        "deadline": "0.5",
        "drain_delay": "0",
        "log_level": "debug",
        "kubeconfig": "/etc/kubeconfig",
    }
    for name, value in values.items():
        environment.setenv(f"VM_CONSISTENCY_{name.upper()}", value)

    settings = Settings()

    assert (settings.namespace, settings.policy_config_map, settings.port) == ("backup", "levels", 9443)
    assert (settings.deadline, settings.drain_delay, settings.log_level) == (0.5, 0, "DEBUG")
    assert str(settings.kubeconfig) == "/etc/kubeconfig"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("ops_port", "http"),
        ("deadline", "0"),
        ("deadline", "nan"),
        ("deadline", "31"),
        ("drain_delay", "-1"),
        ("drain_delay", "inf"),
        ("log_level", "loud"),
        ("log_level", ""),
    ],
)
def test_a_wrong_value_is_refused_by_name(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(f"VM_CONSISTENCY_{name.upper()}", value)

    with pytest.raises(ValidationError) as refused:
        Settings()

    assert [error["loc"] for error in refused.value.errors()] == [(name,)]


def test_names_of_a_fork(environment: pytest.MonkeyPatch) -> None:
    fields = [field.name for field in dataclasses.fields(UPSTREAM)]
    for name in fields:
        environment.setenv(f"VM_CONSISTENCY_KUBEVIRT_{name.upper()}", f"{name.replace('_', '-')}.example")

    names = Settings().names

    for name in fields:
        assert getattr(names, name) == f"{name.replace('_', '-')}.example"


def test_the_certificate_covers_the_service_and_what_is_asked_for(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VM_CONSISTENCY_SERVICE", "webhook")
    environment.setenv("VM_CONSISTENCY_NAMESPACE", "backup")
    environment.setenv("VM_CONSISTENCY_EXTRA_SANS", "127.0.0.1, ,webhook.example ,")

    assert Settings().serving_names == (
        "webhook.backup.svc",
        "webhook.backup",
        "webhook.backup.svc.cluster.local",
        "127.0.0.1",
        "webhook.example",
    )
