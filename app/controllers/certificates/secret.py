"""The certificates that all replicas share: one Secret, made by whoever is first and kept good by whoever notices."""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from app.controllers.reconcile_loop import ObjectApi, Pace, Problem, ReconcileLoop, until_won, waking
from app.kube.client import ApiError, Json, KubeClient
from app.kube.resources import SECRETS
from app.tls.authority import KeyMaterial, ensure
from app.tls.serving import ServingContext, utc_now
from app.tls.x509 import CertificateBundle, CertificateError

_log = logging.getLogger("vm-consistency.certificates")


class CertificateController:
    """Keeps good certificates in the Secret and serves them.

    The Secret comes empty with the manifests. Every write carries the resourceVersion of what was read, so of several
    replicas that find the same fault one repairs it and the others take what it wrote. Where the Secret was emptied,
    a replica puts back the certificate that it still serves: API servers get to know a new CA only after that.
    """

    def __init__(
        self,
        api: ObjectApi,
        serving: ServingContext,
        *,
        namespace: str,
        secret: str,
        clock: Callable[[], datetime] = utc_now,
        pace: Pace | None = None,
    ) -> None:
        """`serving` names what the certificate is for."""
        self._api, self.serving, self._clock = api, serving, clock
        self._namespace, self._name = namespace, secret
        self._pace = pace or Pace()
        self._lock = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._loop = ReconcileLoop(self.reconcile, _log)
        self.wake = self._loop.wake
        self.ca_pem = b""
        """The CA certificates that the Secret held when it was last read and found good."""

    def listen(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after another certificate or CA came into use."""
        self._listeners.append(callback)

    def problem(self) -> str | None:
        """Why there is no good certificate to serve; None if there is one."""
        problem = self.serving.problem()
        return f"{problem}: {self._loop.error}" if problem and self._loop.error else problem

    async def run(self, client: KubeClient) -> None:
        """Watch the Secret through `client` and reconcile on every change, and periodically, until cancelled."""
        watch = waking(client, SECRETS, self._name, self.wake, namespace=self._namespace)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch.run())
            tasks.create_task(self._loop.run())

    async def reconcile(self) -> float | None:
        """Read the Secret, repair what isn't good in it, and serve it; returns the seconds until a repair may be made.

        Raises KubeError, and Problem for what an administrator has to put right.
        """
        async with self._lock:
            try:
                return await until_won(self._pass)
            except ApiError as error:
                raise Problem(f"{self._where} can't be written: {error}") from error

    @property
    def _where(self) -> str:
        return f"Secret {self._namespace}/{self._name}"

    async def _pass(self) -> float | None:
        secret = await self._read()
        ensured = ensure(_material(secret), self._remembered(), self.serving.names, self._clock())
        if ensured.reasons:
            if delay := self._pace.delay():
                return delay
            await self._write(secret, ensured.material)
            self._pace.wrote()
            _log.info("certificates made", extra={"secret": self._name, "reasons": list(ensured.reasons)})
        self._use(ensured.material)
        return None

    def _remembered(self) -> CertificateBundle:
        served = self.serving.bundle
        return CertificateBundle(served.cert_pem if served else b"", served.key_pem if served else b"", self.ca_pem)

    async def _read(self) -> Json:
        try:
            return await self._api.get(SECRETS.object(self._name, self._namespace))
        except ApiError as error:
            if error.status == 404:
                raise Problem(f"{self._where} does not exist: apply the manifests, which bring it") from error
            raise Problem(f"{self._where} can't be read: {error}") from error

    async def _write(self, secret: Json, material: KeyMaterial) -> None:
        data = {key: base64.b64encode(pem).decode() for key, pem in material.as_data().items()}
        guard = {"resourceVersion": secret["metadata"]["resourceVersion"]}
        await self._api.patch(SECRETS.object(self._name, self._namespace), {"metadata": guard, "data": data})

    def _use(self, material: KeyMaterial) -> None:
        changed = material.ca_pem != self.ca_pem
        self.ca_pem = material.ca_pem
        if material.bundle != self.serving.bundle:
            try:
                self.serving.replace(material.bundle)
            except CertificateError as error:
                raise Problem(f"{self._where}: {error}") from error
            changed = True
            _log.info("certificate served", extra={"fingerprint": self.serving.fingerprint})
        if changed:
            for callback in self._listeners:
                callback()


def _material(secret: Json) -> KeyMaterial:
    data: Any = secret.get("data")
    return KeyMaterial.from_data({key: _decoded(value) for key, value in data.items()} if data else {})


def _decoded(value: object) -> bytes:
    try:
        return base64.b64decode(value) if isinstance(value, str) else b""
    except binascii.Error:
        return b""
