"""The webhook as a process of its own without a cluster, and the API server's side of the connection to it.

Only what the product itself needs is imported, so that the demo runs on the runtime lock alone.
"""

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import jsonpatch

from app.tls.__main__ import write as write_certificates

Object = dict[str, Any]

_ADDRESS = "127.0.0.1"
_ROOT = Path(__file__).parents[2]
_SECONDS = 30.0
"""For the process to become ready, and to read a policy."""


class WebhookError(Exception):
    """The webhook ended, did not get ready in time, or gave an answer of the wrong kind; the message has its log."""


class Webhook:
    """`serve --policy FILE --certs DIR --objects DIR`, with what it writes below a folder."""

    def __init__(self, folder: Path, policy: Path, objects: Path) -> None:
        """Start it; `policy` is copied, `objects` is read where it is."""
        self._policy, self._certs, self._log = folder / "policy.yaml", folder / "certs", folder / "log"
        self.port, self._ops_port = _free_ports(2)
        write_certificates(self._certs, [_ADDRESS])
        self._policy.write_bytes(policy.read_bytes())
        self._loads = 1
        trust = ssl.create_default_context(cafile=self._certs / "ca.crt")
        self._connection = HTTPSConnection(_ADDRESS, self.port, timeout=_SECONDS, context=trust)
        self._child = self._start(objects)

    def wait_ready(self) -> None:
        """Return when /readyz says that it is; raises WebhookError."""
        self._wait(lambda: self._ops("/readyz")[0] == 200, "ready")

    def _start(self, objects: Path) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VM_CONSISTENCY_")}
        settings = {"HOST": _ADDRESS, "PORT": str(self.port), "OPS_PORT": str(self._ops_port), "DRAIN_DELAY": "0"}
        files = ["--policy", self._policy, "--certs", self._certs, "--objects", objects]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "app", "serve", *map(str, files)],
                cwd=_ROOT,
                env=inherited | {f"VM_CONSISTENCY_{name}": value for name, value in settings.items()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends the webhook
            )

    def send(self, review: Object) -> Object:
        """Return the response to an AdmissionReview; raises WebhookError."""
        body = json.dumps(review)
        try:
            self._connection.request("POST", "/mutate/pods", body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            text = answer.read().decode()
        except (OSError, HTTPException) as error:
            raise self._failed(f"it did not answer: {error!r}") from error
        if answer.status != 200:
            raise self._failed(f"it answered {answer.status}: {text}")
        response: Object = json.loads(text)["response"]
        return response

    def change_policy(self, policy: Path) -> None:
        """Replace the policy file, and return when the process has read it; raises WebhookError."""
        fresh = self._policy.with_suffix(".new")
        fresh.write_bytes(policy.read_bytes())
        fresh.replace(self._policy)
        self._loads += 1
        sample = f'vm_consistency_policy_loads_total{{result="good"}} {self._loads:.1f}'
        self._wait(lambda: sample in self._ops("/metrics")[1].splitlines(), "done with the new policy")

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _ops(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{_ADDRESS}:{self._ops_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""  # nothing listens yet

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while not condition():
            if self._child.poll() is not None:
                raise self._failed(f"it ended with exit code {self._child.returncode}")
            if time.monotonic() > deadline:
                raise self._failed(f"it is not {what} after {_SECONDS:.0f} s")
            time.sleep(0.05)

    def _failed(self, reason: str) -> WebhookError:
        log = self._log.read_text(errors="replace").rstrip() or "(nothing)"
        return WebhookError(f"the webhook: {reason}\nIts log:\n{log}")


@contextmanager
def running(policy: Path, objects: Path) -> Iterator[Webhook]:
    """A webhook that is ready on entry; on exit neither the process nor its folder is left.

    Raises WebhookError. SIGTERM ends the `with` block like Ctrl-C.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="vm-consistency-demo-") as folder:
            webhook = Webhook(Path(folder), policy, objects)
            try:
                webhook.wait_ready()
                yield webhook
            finally:
                webhook.stop()
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nothing listens on; they differ, as all are held until the last is known."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server((_ADDRESS, 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in held]


def patched(pod: Object, response: Object) -> Object:
    """Return the pod as the API server stores it after a response of a webhook."""
    patch = response.get("patch")
    result: Object = jsonpatch.apply_patch(pod, json.loads(base64.b64decode(patch))) if patch else pod
    return result
