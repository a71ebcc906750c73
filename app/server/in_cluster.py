"""The parts of a process in a cluster."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from app.admission.mutate_pods import PodMutator
from app.cluster.facts import StoreFacts
from app.cluster.stores import ClusterStores, cluster_reflectors
from app.controllers.certificates.ca_injector import CaInjector
from app.controllers.certificates.secret import CertificateController
from app.controllers.events.recorder import EventRecorder
from app.controllers.leader.election import Leader, new_identity
from app.controllers.leader_tasks import Duties
from app.controllers.policy.active import PolicyKeeper
from app.controllers.policy.config_map import ConfigMapPolicy
from app.controllers.policy.status import PolicyStatus
from app.kube.client import KubeClient
from app.kube.connection import ConfigError
from app.kube.reflector import Reflector
from app.kube.resources import VALIDATING_WEBHOOKS
from app.server.metrics import Metrics
from app.server.run import Parts
from app.server.validators import validators
from app.settings import Settings
from app.tls.serving import ServingContext

__all__ = ["ConfigError", "assemble"]


@asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[Parts]:
    """Assemble a webhook that reads its cluster.

    Raises ConfigError where no cluster is configured.
    """
    client = await KubeClient.connect(settings.kubeconfig, settings.context)
    try:
        yield _parts(settings, client)
    finally:
        await client.close()


def _parts(settings: Settings, client: KubeClient) -> Parts:
    metrics = Metrics()
    identity = new_identity()
    stores = ClusterStores(settings.names)
    reflectors = cluster_reflectors(client, stores)
    keeper = PolicyKeeper(metrics.policy_changed, grace=settings.policy_grace)
    policy = ConfigMapPolicy(client, settings, keeper)
    serving = ServingContext(settings.serving_names)
    certificates = CertificateController(
        client, serving, namespace=settings.namespace, secret=settings.certificate_secret
    )
    injector = CaInjector(client, certificates, serving, name=settings.webhook_configuration)
    guard = CaInjector(client, certificates, serving, name=settings.webhook_configuration, resource=VALIDATING_WEBHOOKS)
    for one in (injector, guard):
        certificates.listen(one.wake)
    metrics.show_stores({reflector.title: reflector.store for reflector in reflectors})
    facts = StoreFacts(client, stores, settings.deadline)
    leader = Leader(
        client, namespace=settings.namespace, name=settings.lease, identity=identity, on_change=metrics.leading
    )
    recorder = EventRecorder(instance=identity, on_result=metrics.event)
    status = PolicyStatus(client, keeper, recorder, namespace=settings.namespace, name=settings.policy_config_map)
    keeper.listen(status.wake)
    duties = Duties(
        client,
        settings,
        stores,
        facts,
        keeper,
        recorder,
        status,
        metrics,
        lambda: all(one.synced and not one.store.stale for one in (*reflectors, policy.reflector)),
    )

    async def lead() -> None:
        for reflector in reflectors:  # what reviews need is read first
            await reflector.wait_synced()
        await leader.run(client, duties.run)

    return Parts(
        PodMutator(keeper, facts, settings.names),
        serving,
        metrics,
        workers={
            **{reflector.title: reflector.run for reflector in reflectors},
            "policy": policy.run,
            "certificates": partial(certificates.run, client),
            "ca-injector": partial(injector.run, client),
            "ca-injector of validation": partial(guard.run, client),
            "leader": lead,
        },
        checks={
            **{reflector.title: _unsynced(reflector) for reflector in reflectors},
            "policy": keeper.problem,
            "certificate": certificates.problem,
            "ca-bundle": injector.problem,
        },
        notes={
            **{f"watch {reflector.title}": _stale(reflector) for reflector in (*reflectors, policy.reflector)},
            "policy": keeper.note,
            "leader": leader.note,
            "running pods": duties.note,
            "ca-bundle of validation": guard.problem,  # pods are well served without it
        },
        validators=validators(keeper, facts, settings),
    )


def _unsynced(reflector: Reflector[Any]) -> Callable[[], str | None]:
    return lambda: None if reflector.synced else reflector.state()


def _stale(reflector: Reflector[Any]) -> Callable[[], str | None]:
    return lambda: reflector.describe() if reflector.store.stale else None
