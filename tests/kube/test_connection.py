"""Finding the cluster, and staying somebody there while tokens change."""

import datetime
import json
import subprocess
import sys
import types
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kubernetes.aio.config import incluster_config
from kubernetes.aio.config.kube_config import load_kube_config

from app.kube import connection
from app.kube.client import ApiError, ApiUnavailable, Json, KubeClient
from app.kube.connection import ConfigError, Configuration, KubeconfigRefresh, load
from tests.infra.clock import Clock
from tests.infra.controlplane import ControlPlane
from tests.kube.support import client_of

_WHOAMI = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


async def _whoami(client: KubeClient) -> str:
    answer = await client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", _WHOAMI)
    return str(answer["status"]["userInfo"]["username"]).rpartition(":")[2]


def _token(api: ControlPlane, account: str) -> str:
    metadata = {"name": account, "namespace": "default"}
    api.client.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    return api.token_for("default", account)


def _kubeconfig(api: ControlPlane, path: Path, user: Json) -> Path:
    content = json.loads(api.kubeconfig.read_text())
    content["users"][0]["user"] = user
    path.write_text(json.dumps(content))
    return path


def _write(path: Path, content: str) -> None:
    path.write_text(content)


@pytest.fixture
def no_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(connection, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "no" / "config"))


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: ControlPlane) -> Path:
    """The token file of a pod of this control plane."""
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    authority.write_bytes(api.ca_file.read_bytes())
    token.write_text(_token(api, "first"))
    url = urlsplit(api.url)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(url.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(url.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setattr(connection, "SERVICE_TOKEN_FILENAME", str(token))
    return token


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets more than a minute pass for the package's in-cluster loader."""

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Later":
            return super().now(tz) + datetime.timedelta(seconds=61)

    module = types.SimpleNamespace(datetime=Later, timedelta=datetime.timedelta)
    return lambda: monkeypatch.setattr(incluster_config, "datetime", module)


async def test_in_a_pod_the_token_file_is_read_again(api: ControlPlane, pod: Path, later: Callable[[], None]) -> None:
    client = await KubeClient.connect()
    try:
        assert await _whoami(client) == "first"
        _write(pod, _token(api, "second"))
        later()
        assert await _whoami(client) == "second"
    finally:
        await client.close()


async def test_a_kubeconfig_wins_over_the_pod(api: ControlPlane, pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(api.kubeconfig) as client:
        assert await _whoami(client) == "admin"
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    client = await KubeClient.connect()
    assert await _whoami(client) == "admin"
    await client.close()


async def test_a_pod_without_its_ca_is_a_config_error(pod: Path) -> None:
    (pod.parent / "ca.crt").unlink()
    with pytest.raises(ConfigError, match="the pod's ServiceAccount can't be used: Service certification file"):
        await load()


async def test_a_context_is_chosen_by_name(api: ControlPlane, tmp_path: Path) -> None:
    content = json.loads(api.kubeconfig.read_text())
    content["users"].append({"name": "second", "user": {"token": _token(api, "second")}})
    content["contexts"].append({"name": "other", "context": {"cluster": "test", "user": "second"}})
    path = tmp_path / "two"
    path.write_text(json.dumps(content))
    client = await KubeClient.connect(path, "other")
    assert await _whoami(client) == "second"
    await client.close()
    with pytest.raises(ConfigError, match=f"kubeconfig {path}: .*absent"):
        await load(path, "absent")


@pytest.mark.usefixtures("no_pod")
async def test_no_cluster_at_all_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set KUBECONFIG or give --kubeconfig"):
        await load()
    with pytest.raises(ConfigError, match=f"^no such kubeconfig: {tmp_path}/x$"):
        await load(tmp_path / "x")


@pytest.mark.parametrize("content", ["", "[]", "{", "current-context: a", "kind: Config\ncontexts: 7"])
async def test_a_malformed_kubeconfig_is_a_config_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"^kubeconfig {path}: ") as caught:
        await load(path)
    assert "\n" not in str(caught.value)


def _plugin(folder: Path) -> Json:
    """An exec plugin that prints what `answer` holds and writes down each run."""
    program = folder / "plugin.py"
    program.write_text(
        "import pathlib, sys\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "with (folder / 'runs').open('a') as runs: runs.write('x')\n"
        "sys.stdout.write((folder / 'answer').read_text())\n"
    )
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": [str(program)]}
    return {"exec": {**command, "interactiveMode": "Never"}}


def _answers(folder: Path, token: str, *, valid_minutes: int | None = None) -> None:
    status: Json = {"token": token}
    if valid_minutes is not None:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=valid_minutes)
        status["expirationTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    (folder / "answer").write_text(json.dumps(answer))


def _runs(folder: Path) -> int:
    return len((folder / "runs").read_text())


async def _client_with_clock(path: Path, clock: Clock) -> KubeClient:
    configuration = Configuration()
    loader = await load_kube_config(str(path), None, configuration, persist_config=False)
    return KubeClient(configuration, KubeconfigRefresh(loader, configuration, clock))


# the package asks datetime.utcnow(), deprecated since Python 3.12
_utcnow = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@_utcnow
async def test_an_exec_plugin_is_run_again_near_the_end_of_its_token(api: ControlPlane, tmp_path: Path) -> None:
    clock = Clock()
    _answers(tmp_path, _token(api, "first"), valid_minutes=4)  # the package renews 5 minutes ahead
    client = await _client_with_clock(_kubeconfig(api, tmp_path / "config", _plugin(tmp_path)), clock)
    assert await _whoami(client) == "first"
    _answers(tmp_path, _token(api, "second"), valid_minutes=60)
    assert await _whoami(client) == "first"
    assert _runs(tmp_path) == 1, "not for every request"
    clock.now += 61
    assert await _whoami(client) == "second"
    clock.now += 61
    assert await _whoami(client) == "second"
    assert _runs(tmp_path) == 2, "valid for an hour"
    await client.close()


@_utcnow
async def test_an_exec_plugin_is_run_again_after_a_refusal(api: ControlPlane, tmp_path: Path) -> None:
    clock = Clock()
    _answers(tmp_path, "revoked", valid_minutes=60)
    client = await _client_with_clock(_kubeconfig(api, tmp_path / "config", _plugin(tmp_path)), clock)
    for _ in range(3):
        with pytest.raises(ApiError, match="401 Unauthorized"):
            await _whoami(client)
    assert _runs(tmp_path) == 2, "once more, then not before some seconds have passed"
    _answers(tmp_path, _token(api, "second"), valid_minutes=60)
    clock.now += 6
    assert await _whoami(client) == "second"
    await client.close()


async def test_a_plugin_that_fails_keeps_the_old_token_and_recovers(
    api: ControlPlane, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    _answers(tmp_path, _token(api, "first"))
    client = await _client_with_clock(_kubeconfig(api, tmp_path / "config", _plugin(tmp_path)), clock)
    (tmp_path / "answer").write_text("out of order")
    clock.now += 61
    assert await _whoami(client) == "first"
    said = " ".join(str(getattr(record, "error", "")) for record in caplog.records) + caplog.text
    assert "out of order" in said or "failed to decode process output" in said
    _answers(tmp_path, _token(api, "second"))
    clock.now += 61
    assert await _whoami(client) == "second"
    await client.close()


async def test_a_plugin_that_fails_at_the_start_is_tried_again(api: ControlPlane, tmp_path: Path) -> None:
    """Without any token the package never calls its refresh hook; a product that starts too early must recover."""
    clock = Clock()
    (tmp_path / "answer").write_text("not yet")
    client = await _client_with_clock(_kubeconfig(api, tmp_path / "config", _plugin(tmp_path)), clock)
    assert await _anonymous(client)
    _answers(tmp_path, _token(api, "first"))
    clock.now += 61
    assert await _whoami(client) == "first"
    await client.close()


async def _anonymous(client: KubeClient) -> bool:
    try:
        return await _whoami(client) == "anonymous"
    except ApiError as error:
        return error.status in {401, 403}


async def test_a_token_file_of_a_kubeconfig_is_read_again(api: ControlPlane, tmp_path: Path) -> None:
    clock, token = Clock(), tmp_path / "token"
    token.write_text(_token(api, "first"))
    path = _kubeconfig(api, tmp_path / "config", {"tokenFile": str(token)})
    client = await _client_with_clock(path, clock)
    assert await _whoami(client) == "first"
    token.write_text(_token(api, "second"))
    clock.now += 61
    assert await _whoami(client) == "second"
    token.unlink()
    clock.now += 61
    assert await _whoami(client) == "second", "a file that is gone for a moment costs nothing"
    await client.close()


async def test_the_server_is_verified(api: ControlPlane, tmp_path: Path) -> None:
    content = json.loads(api.kubeconfig.read_text())
    cluster = content["clusters"][0]["cluster"]
    assert b"BEGIN CERTIFICATE" in b64decode(cluster.pop("certificate-authority-data"))
    path = tmp_path / "config"
    path.write_text(json.dumps(content))
    async with client_of(path) as client:
        with pytest.raises(ApiUnavailable, match="certificate verify failed"):
            await _whoami(client)


def test_the_synchronous_client_is_not_loaded() -> None:
    """It costs 8 MB of memory. In a process of its own, because tests import much."""
    program = "import sys, app.kube.client; print(sys.modules.keys() & {'requests', 'oauthlib', 'kubernetes.client'})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128", id="of-the-environment"),
        pytest.param({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "127.0.0.1"}, None, id="not-for-this-server"),
        pytest.param({"HTTP_PROXY": "http://proxy:3128"}, None, id="for-another-scheme"),
    ],
)
async def test_the_proxy_of_the_environment_is_taken_once(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str | None
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name.lower(), value)
    configuration, _ = await load(api.kubeconfig)
    assert configuration.proxy == proxy
    assert configuration.client_session_kwargs == {"trust_env": False}, "or it is looked for at every request"
