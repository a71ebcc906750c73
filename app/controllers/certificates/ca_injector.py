"""The CA bundle in a webhook configuration: what the API servers trust when they call us."""

import asyncio
import base64
import binascii
import logging
from dataclasses import dataclass
from typing import Final, Protocol

from app.controllers.reconcile_loop import ObjectApi, Pace, Problem, ReconcileLoop, until_won, waking
from app.kube.client import JSON_PATCH, ApiError, Json, KubeClient
from app.kube.resources import MUTATING_WEBHOOKS, Resource
from app.tls.serving import ServingContext

_log = logging.getLogger("vm-consistency.ca-injector")

_RACE_LOST: Final = (409, 422)
"""A `test` of a JSON patch that fails is answered 422, like an object that isn't valid."""


class CaSource(Protocol):
    """Knows the CA certificates that the replicas share; CertificateController is one."""

    ca_pem: bytes

    async def reconcile(self) -> float | None:
        """Read them anew."""
        ...


@dataclass(frozen=True, slots=True)
class _Webhook:
    index: int
    name: str
    ca_pem: bytes


class CaInjector:
    """Keeps `clientConfig.caBundle` of every webhook in one configuration equal to the shared CA certificates.

    A replica that lags must not put an older CA back. So whoever finds a difference reads the Secret after the
    configuration, and writes only if the configuration is still the one that was read: had another replica injected
    a newer CA meanwhile, the write would fail; had it done so before, the Secret would already hold that CA.
    """

    def __init__(
        self,
        api: ObjectApi,
        source: CaSource,
        serving: ServingContext,
        *,
        name: str,
        resource: Resource = MUTATING_WEBHOOKS,
        pace: Pace | None = None,
    ) -> None:
        """`serving` is what the API servers meet; `name` and `resource` are those of the configuration."""
        self._api, self._source, self._serving = api, source, serving
        self._name, self._resource = name, resource
        self._pace = pace or Pace()
        self._seen: list[_Webhook] | None = None
        self._loop = ReconcileLoop(self.reconcile, _log)
        self.wake = self._loop.wake

    def problem(self) -> str | None:
        """Why API servers would refuse the certificate served here, by the configuration last read; None if not."""
        if self._seen is None:
            return self._loop.error or f"{self._where} has not been read yet"
        for webhook in self._seen:
            if reason := self._distrust(webhook):
                return f"{reason}; {self._loop.error}" if self._loop.error else reason
        return None

    async def run(self, client: KubeClient) -> None:
        """Watch the configuration through `client` and reconcile on every change, and periodically, until cancelled."""
        watch = waking(client, self._resource, self._name, self.wake)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch.run())
            tasks.create_task(self._loop.run())

    async def reconcile(self) -> float | None:
        """Read the configuration and write the CA bundle where another one stands; returns the seconds until it may.

        Raises KubeError, and Problem for what an administrator has to put right.
        """
        try:
            return await until_won(self._pass, _RACE_LOST)
        except ApiError as error:
            raise Problem(f"{self._where}: the CA bundle can't be written: {error}") from error

    @property
    def _where(self) -> str:
        return f"{self._resource.plural.removesuffix('s')} {self._name}"

    async def _pass(self) -> float | None:
        configuration = await self._read()
        self._seen = _webhooks(configuration)
        if not self._source.ca_pem or not self._stale():
            return None
        await self._source.reconcile()
        stale = self._stale()
        if not stale:
            return None
        if delay := self._pace.delay():
            return delay
        patch = _patch(configuration, stale, self._source.ca_pem)
        path = self._resource.object(self._name)
        self._seen = _webhooks(await self._api.patch(path, patch, JSON_PATCH))
        self._pace.wrote()
        _log.info("CA bundle written", extra={"configuration": self._name, "webhooks": [one.name for one in stale]})
        return None

    async def _read(self) -> Json:
        try:
            return await self._api.get(self._resource.object(self._name))
        except ApiError as error:
            if error.status == 404:
                self._seen = None
                raise Problem(f"{self._where} does not exist: apply the manifests, which bring it") from error
            raise Problem(f"{self._where} can't be read: {error}") from error

    def _stale(self) -> list[_Webhook]:
        return [webhook for webhook in self._seen or [] if webhook.ca_pem != self._source.ca_pem]

    def _distrust(self, webhook: _Webhook) -> str | None:
        if not webhook.ca_pem:
            return f"{self._where}, webhook {webhook.name}, has no CA bundle yet"
        if self._serving.bundle is None:
            return None  # that is the certificate's problem
        reason = self._serving.problem(webhook.ca_pem)
        return f"{self._where}, webhook {webhook.name}, carries another CA bundle: {reason}" if reason else None


def _webhooks(configuration: Json) -> list[_Webhook]:
    webhooks = configuration.get("webhooks") or []
    return [_Webhook(index, webhook["name"], _bundle(webhook)) for index, webhook in enumerate(webhooks)]


def _bundle(webhook: Json) -> bytes:
    try:
        return base64.b64decode(webhook["clientConfig"].get("caBundle") or "")
    except binascii.Error:
        return b""


def _patch(configuration: Json, webhooks: list[_Webhook], ca_pem: bytes) -> list[Json]:
    value = base64.b64encode(ca_pem).decode()
    version = configuration["metadata"]["resourceVersion"]
    patch: list[Json] = [{"op": "test", "path": "/metadata/resourceVersion", "value": version}]
    for webhook in webhooks:
        path = f"/webhooks/{webhook.index}/clientConfig/caBundle"  # the version says that the index still fits
        patch.append({"op": "add", "path": path, "value": value})
    return patch
