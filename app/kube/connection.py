"""Where the API server is and who we are to it: `kubernetes.aio`'s configuration, authentication and transport."""

import asyncio
import importlib.util
import logging
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def _without_synchronous_client() -> None:
    """Put the `kubernetes` package in place without running its `__init__`, which imports the synchronous client.

    That client and its dependencies (requests, urllib3, oauthlib: 220 modules) cost 8 MB of resident memory and 0.2 s
    of start (kubernetes 37.0.2, Python 3.11); submodules imported by their full name work as before.
    """
    if "kubernetes" in sys.modules:
        return
    spec = importlib.util.find_spec("kubernetes")
    assert spec is not None, "a dependency of this package"
    sys.modules["kubernetes"] = importlib.util.module_from_spec(spec)


_without_synchronous_client()

import aiohttp  # noqa: E402 - after the package is in place, as everything that follows
from kubernetes.aio.client.configuration import Configuration  # noqa: E402
from kubernetes.aio.client.rest import RESTClientObject  # noqa: E402
from kubernetes.aio.config.config_exception import ConfigException  # noqa: E402
from kubernetes.aio.config.incluster_config import (  # noqa: E402
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    load_incluster_config,
)
from kubernetes.aio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, load_kube_config  # noqa: E402

from app.core.text import one_line  # noqa: E402

__all__ = ["ConfigError", "ConfigException", "Configuration", "Refresh", "Transport", "load", "reason_of"]

_log = logging.getLogger("vm-consistency.connection")

Refresh = Callable[[bool], Awaitable[None]]
"""Called before each request to renew credentials that need it; True after the API server refused them (401)."""

_REFRESH_SECONDS = 60.0  # client-go rereads a token file as often
_RETRY_SECONDS = 5.0  # a plugin that fails, or gives what is refused, is not run for every request
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class ConfigError(Exception):
    """There is no usable way to a cluster; the message says what to give."""


def reason_of(error: BaseException) -> str:
    """The text of an error on one line, or its type where it has none."""
    return one_line(str(error)) or type(error).__name__


async def load(kubeconfig: Path | None = None, context: str | None = None) -> tuple[Configuration, Refresh]:
    """Find the cluster: an explicit kubeconfig or context, else the pod's ServiceAccount, else the default kubeconfig.

    The environment variable KUBECONFIG is as explicit as an argument, in a pod too. Raises ConfigError.
    """
    configuration = Configuration()
    # Python 3.13 made VERIFY_X509_STRICT a default; it refuses cluster CAs without an Authority Key Identifier, which
    # every client written in Go accepts. Chain and host name are verified all the same.
    configuration.disable_strict_ssl_verification = True
    if not (kubeconfig or context or os.environ.get("KUBECONFIG")) and _in_pod():
        try:
            load_incluster_config(configuration)
        except (ConfigException, OSError) as error:
            raise ConfigError(f"the pod's ServiceAccount can't be used: {reason_of(error)}") from error
        _settle_proxy(configuration)
        return configuration, _nothing_to_refresh
    path = _existing(kubeconfig)
    try:
        # persist_config would write a renewed OIDC token back into the user's file
        loader = await load_kube_config(path, context, configuration, persist_config=False)
    except Exception as error:  # the loader raises whatever a malformed file leads it to
        raise ConfigError(f"kubeconfig {path}: {reason_of(error)}") from error
    _settle_proxy(configuration)
    return configuration, KubeconfigRefresh(loader, configuration)


def _settle_proxy(configuration: Configuration) -> None:
    """Take the proxy of the environment once.

    The transport would have aiohttp look for it, and for a netrc file, at every request: two trips to a thread, and
    half the processor time of a small one (kubernetes 37.0.2, aio/client/rest.py; aiohttp 3.14).
    """
    configuration.client_session_kwargs = {"trust_env": False}
    server = urlsplit(configuration.host)
    if configuration.proxy is None and not proxy_bypass(server.hostname or ""):
        configuration.proxy = getproxies().get(server.scheme)


def _in_pod() -> bool:
    return SERVICE_HOST_ENV_NAME in os.environ and Path(SERVICE_TOKEN_FILENAME).is_file()


def _existing(kubeconfig: Path | None) -> str:
    path = str(kubeconfig or os.environ.get("KUBECONFIG") or KUBE_CONFIG_DEFAULT_LOCATION)
    if any(Path(part).expanduser().is_file() for part in path.split(os.pathsep) if part):
        return path
    if kubeconfig:
        raise ConfigError(f"no such kubeconfig: {path}")
    raise ConfigError(
        f"no cluster: this is no pod with a ServiceAccount, and there is no {path}; set KUBECONFIG or give --kubeconfig"
    )


async def _nothing_to_refresh(refused: bool) -> None:
    """In a pod the configuration's own refresh_api_key_hook rereads the token file once a minute."""


class KubeconfigRefresh:
    """Renews what a kubeconfig's user section leads to: a token file, an exec plugin's token, an OIDC token.

    `kubernetes.aio` loads these once and offers a loop that polls exec plugins; this asks its loader before a request
    instead, at most once a minute, and the loader runs a plugin only when the token it gave is near its end (a plugin
    that names no end is run each minute that has a request). Client certificates from a plugin are not renewed.
    """

    def __init__(self, loader: Any, configuration: Configuration, clock: Callable[[], float] = time.monotonic) -> None:
        self._loader, self._configuration, self._clock = loader, configuration, clock
        self._lock = asyncio.Lock()
        self._due = clock() + _REFRESH_SECONDS
        self._soonest = 0.0

    async def __call__(self, refused: bool) -> None:
        """Renew the configuration's credentials if that is due; on failure the old ones are kept and logged."""
        async with self._lock:
            now = self._clock()
            if now < (self._soonest if refused else self._due):
                return
            self._due = self._soonest = now + _RETRY_SECONDS
            if refused:
                vars(self._loader).pop("exec_plugin_expiry", None)  # whatever it promised
            try:
                await self._loader.load_and_set(self._configuration)
            except Exception as error:
                _log.warning("credentials of the kubeconfig were not renewed", extra={"error": reason_of(error)})
            else:
                self._due = now + _REFRESH_SECONDS


class Transport(RESTClientObject):
    """The package's HTTP transport, with connections that notice when the other side has vanished.

    A watch sends nothing, so the kernel would keep one to a dead API server until the request's own timeout, minutes
    later; meanwhile decisions would rest on an old picture. client-go pings for the same reason.
    """

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_socket)

    async def websocket(
        self, url: str, headers: Mapping[str, str], protocols: Sequence[str], ping_seconds: float
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket; raises aiohttp's exceptions.

        The package's own WsApiClient would need a second session, and passes over proxy and tls-server-name
        (kubernetes 37.0.2, aio/stream/ws_client.py).
        """
        if self.pool_manager is None:
            self.pool_manager = self._create_pool_manager()
        return await self.pool_manager.ws_connect(
            url,
            headers=headers,
            protocols=protocols,
            heartbeat=ping_seconds,
            proxy=self.proxy,
            proxy_headers=self.proxy_headers,
            server_hostname=self.configuration.tls_server_name,
        )


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has them
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
