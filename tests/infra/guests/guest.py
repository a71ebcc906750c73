"""A running guest: what tests ask of it, and what reached its agent through the launcher socket."""

import json
import re
import secrets
import shlex
import socket
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.infra.controlplane.processes import PREFERRED, Process
from tests.infra.guests.domain import Domain

AS_POSTGRES = "setpriv --reuid=postgres --regid=postgres --init-groups"
"""Runs a command as that user, for a tenth of what PAM costs an emulated processor."""

_POLL_SECONDS = 0.1


class GuestError(Exception):
    """The guest agent did not answer, or refused."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command in the guest ended; `output` is both its streams."""

    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class Event:
    """One line of what the launcher bridge writes down (tests/infra/controlplane/parts/bridge, record.go).

    `call`: freeze, thaw, status, exec, exec-end, ping, safety-timer, malformed. `state`: sent, done, failed. `detail`:
    the command in plain text, the answer or the error, cut to 200 characters.
    """

    at: datetime
    call: str
    state: str
    detail: str


class Guest:
    """Made by `Hypervisor.start`.

    `launcher` is the bridge that serves the launcher socket in `sockets`; `run_kubevirt` is what its container sees as
    /run/kubevirt. `data_disk` is the raw image with the label data: whoever copies it gets what the guest has written.
    """

    def __init__(self, domain: Domain, uri: str, bridge: Path) -> None:
        self.definition = domain
        self.domain = domain.name
        self.folder = domain.folder
        self.data_disk = domain.data_disk
        self.console = domain.console
        self.run_kubevirt = domain.folder / "kubevirt"
        self.sockets = self.run_kubevirt / "sockets"
        self._uri = uri
        self._record = domain.folder / "record.jsonl"
        socket = self.sockets / "launcher-sock"
        self.launcher = Process(
            f"launcher-bridge of {self.domain}",
            [*PREFERRED, bridge, "--uri", uri, "--domain", self.domain, "--socket", socket, "--record", self._record],
            domain.folder / "launcher-bridge.log",
            ready=socket.exists,
        )

    def wait_agent(self, seconds: float = 180.0) -> "Guest":
        """Return when the agent answers and the launcher knows its version; PostgreSQL runs by then."""
        self._wait_for("guest agent", lambda: self._known_to_launcher() and self.answers(), seconds)
        return self

    def wait_console(self, text: str, seconds: float = 180.0) -> None:
        """Return when the console shows `text`; the only news of a guest without an agent."""
        self._wait_for(f"{text!r} on the console", lambda: text in self._console_text(), seconds)

    def agent(self, command: str, **arguments: object) -> Any:
        """Send one command of the agent's protocol, not through the launcher. Raises GuestError."""
        request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        sent = self._virsh("qemu-agent-command", self.domain, request)
        if sent.returncode != 0:
            raise GuestError(f"{command} in {self.domain}: {sent.stderr.strip()}")
        return json.loads(sent.stdout)["return"]

    def run(self, script: str, *, seconds: float = 60.0) -> Ran:
        """Run a shell script in the guest as root and wait for its end. Raises GuestError, also while frozen."""
        words = {"path": "/bin/sh", "arg": ["-c", f"exec 2>&1\n{script}"], "capture-output": True}
        started = self.agent("guest-exec", **words)
        deadline = time.monotonic() + seconds
        while not (status := self.agent("guest-exec-status", pid=started["pid"]))["exited"]:
            if time.monotonic() > deadline:
                raise GuestError(f"still running in {self.domain} after {seconds:.0f} s: {script}")
            time.sleep(_POLL_SECONDS)
        output = b64decode(status.get("out-data", "")).decode(errors="replace")
        return Ran(status.get("exitcode", 128 + status.get("signal", 0)), output)

    def must_run(self, script: str, *, seconds: float = 60.0) -> str:
        """What a script prints, without the blanks around it. Raises GuestError when it fails."""
        ran = self.run(script, seconds=seconds)
        if ran.exit_code != 0:
            raise GuestError(f"exit code {ran.exit_code} in {self.domain} from: {script}\n{ran.output}")
        return ran.output.strip()

    def past_agent(self, command: str) -> str:
        """Run one line in the guest though its agent may hang, and return what it prints. Raises GuestError."""
        end = f"end-{secrets.token_hex(4)}-"
        said, done = "", None
        with socket.socket(socket.AF_UNIX) as shell:
            shell.settimeout(60)
            shell.connect(str(self.definition.shell))
            shell.sendall(f"{command}; echo {end}$?\n".encode())
            with suppress(TimeoutError):
                while not done and (received := shell.recv(4096)):
                    said += received.decode(errors="replace")
                    done = re.search(rf"(.*){end}(\d+)\s", said, re.DOTALL)
        if done is None or done[2] != "0":
            raise GuestError(f"in {self.domain}, past its agent: {command}\n{said or 'no answer'}")
        return done[1].strip()

    def stop_agent(self) -> None:
        """Let the agent hang, until `continue_agent`."""
        self.past_agent("kill -STOP $(pidof qemu-ga)")

    def continue_agent(self) -> None:
        """End of its hanging, whatever stopped it."""
        self.past_agent("kill -CONT $(pidof qemu-ga)")

    def psql(self, sql: str, *, seconds: float = 60.0) -> str:
        """What a statement yields, as bare values. Raises GuestError when PostgreSQL refuses or does not answer."""
        words = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]
        return self.must_run(f"cd / && {AS_POSTGRES} {shlex.join(words)}", seconds=seconds)

    def on_freeze(self, script: str) -> None:
        """What the agent's freeze hook runs before each freeze from now on; its failure makes the agent refuse."""
        self.must_run(f"printf %s {shlex.quote(script)} >/run/guest-test/freeze")

    def frozen(self) -> bool:
        """Whether the agent says that the file systems are frozen. Raises GuestError."""
        return bool(self.agent("guest-fsfreeze-status") == "frozen")

    def thaw(self) -> None:
        """Thaw past the launcher, which knows nothing of it."""
        self.agent("guest-fsfreeze-thaw")

    def events(self) -> list[Event]:
        """What reached the agent through the launcher socket so far, in order."""
        text = self._record.read_text() if self._record.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [Event(datetime.fromisoformat(line.pop("at")), **line) for line in lines]

    def state(self) -> str:
        """libvirt's word for the domain's state: running, paused, shut off."""
        asked = self._virsh("domstate", self.domain)
        return asked.stdout.strip() if asked.returncode == 0 else "shut off"

    def pause(self) -> None:
        """Stop its processor."""
        self._must_virsh("suspend", self.domain)

    def resume(self) -> None:
        """End of a pause."""
        self._must_virsh("resume", self.domain)

    def kill(self) -> None:
        """Pull the plug; the disks stay as they are at that moment."""
        self._must_virsh("destroy", self.domain)

    def close(self) -> None:
        """End guest and launcher; fine on a guest that ended before."""
        self.launcher.kill()
        self._virsh("destroy", self.domain)

    def answers(self) -> bool:
        """Whether the agent answers within libvirt's five seconds."""
        try:
            self.agent("guest-ping")
        except GuestError:
            return False
        return True

    def _known_to_launcher(self) -> bool:
        return " is known" in self.launcher.log.read_text()

    def _console_text(self) -> str:
        logs = (self.definition.earlier_console, self.console)
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())

    def _wait_for(self, what: str, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if self.state() == "shut off" or time.monotonic() > deadline:
                raise GuestError(f"no {what} from {self.domain} in {seconds:.0f} s; console:\n{self._console_text()}")
            time.sleep(_POLL_SECONDS)

    def _must_virsh(self, *words: str) -> None:
        done = self._virsh(*words)
        if done.returncode != 0:
            raise GuestError(f"virsh {' '.join(words)}: {done.stderr.strip()}")

    def _virsh(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["virsh", "-q", "-c", self._uri, *words], capture_output=True, text=True, check=False)
