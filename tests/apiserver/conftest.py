"""The product installed once into the session's control plane, with virt-controller and one replica of the webhook.

    def test_something(client: Client, namespace: str, set_policy: SetPolicy) -> None:
        set_policy({"default": {"level": "crash"}})       # in force when this returns; undone after the test
        client.create(make_vm("db", namespace))
        assert annotations(launcher_pod(client, "db", namespace))[...] == ...

A test that stops the replica, routes the registration elsewhere or starts more replicas puts that right itself.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeAlias

import pytest

from tests.apiserver.whole_run import judge, judge_registration
from tests.infra.controlplane import Client, ControlPlane, make_namespace
from tests.infra.installation import Installation, Replica, serving

SetPolicy: TypeAlias = Callable[[str | Mapping[str, object] | None], None]


class NewNamespace(Protocol):
    """Creates a namespace that no other test has, and returns its name."""

    def __call__(
        self, prefix: str = ..., *, labels: Mapping[str, str] | None = ..., annotations: Mapping[str, str] | None = ...
    ) -> str: ...


DEFAULT_POLICY: Mapping[str, object] = {"default": {"level": "filesystem"}}


@pytest.fixture(scope="package")
def installation(control_plane: ControlPlane) -> Iterator[Installation]:
    """The shipped manifests and one ready replica; DEFAULT_POLICY is in force."""
    with serving(control_plane, DEFAULT_POLICY) as installed:
        yield installed
        judge(installed)


@pytest.fixture(scope="package")
def apart(real_parts: None, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """The product on another control plane with virt-controller, where a test may have the API server see failures."""
    with ControlPlane() as cp:
        cp.install_kubevirt()
        cp.start_virt_controller()
        with serving(cp, DEFAULT_POLICY) as installed:
            yield installed
            judge_registration(cp)
        cp.keep |= request.session.testsfailed > 0


@pytest.fixture
def namespace_apart(apart: Installation) -> str:
    """A namespace of this test's own, there."""
    name = f"apart-{secrets.token_hex(3)}"
    apart.cp.client.create(make_namespace(name))
    return name


@pytest.fixture
def undisturbed(installation: Installation) -> Iterator[None]:
    """Nobody leads, so that what stands on a pod is what admission made of it."""
    with installation.nobody_leads():
        yield


@pytest.fixture
def undisturbed_apart(apart: Installation) -> Iterator[None]:
    """The same there."""
    with apart.nobody_leads():
        yield


@pytest.fixture
def replica(installation: Installation) -> Replica:
    """The replica that the API server calls."""
    return installation.replicas[0]


@pytest.fixture
def set_policy(installation: Installation) -> Iterator[SetPolicy]:
    """Put a policy (its fields, a text, or None for none) in force for this test."""
    yield installation.change_policy
    installation.change_policy(DEFAULT_POLICY)


@pytest.fixture
def new_namespace(installation: Installation, request: pytest.FixtureRequest) -> NewNamespace:
    """Make namespaces for this test."""

    def create(
        prefix: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> str:
        about = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:40]
        name = f"{prefix or about}-{secrets.token_hex(3)}"
        installation.cp.client.create(make_namespace(name, labels=labels, annotations=annotations))
        return name

    return create


@pytest.fixture
def namespace(new_namespace: NewNamespace) -> str:
    """A namespace of this test's own."""
    return new_namespace()


@pytest.fixture
def client(installation: Installation) -> Client:
    """The cluster's administrator."""
    return installation.cp.client
