"""Running commands as a user does, in this process."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from app.cli.main import cli
from tests.infra.stand_ins.api_server import StandInServer


class Ran:
    """How a command ended and what it printed."""

    def __init__(self, exit_code: int, stdout: str, stderr: str) -> None:
        self.exit_code, self.stdout, self.stderr = exit_code, stdout, stderr

    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.stdout)


def run(*words: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None) -> Ran:
    """Run a command; an exception that it lets through is one in the test too."""
    ran = CliRunner().invoke(cli, [str(word) for word in words], input=stdin, env=env, catch_exceptions=False)
    return Ran(ran.exit_code, ran.stdout, ran.stderr)


def written(path: Path, content: object) -> Path:
    """Write an object as the file's name says, as JSON or YAML, several documents for a list; or a text as it is."""
    if isinstance(content, str):
        path.write_text(content)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_text(yaml.safe_dump_all(content if isinstance(content, list) else [content]))
    return path


@contextmanager
def served(server: StandInServer) -> Iterator[None]:
    """Meanwhile the server answers, from another thread: a command has a loop of its own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ended = asyncio.Event()

    async def serve() -> None:
        async with server.running():
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
    loop.close()


def kubeconfig(server: str) -> dict[str, Any]:
    """A kubeconfig of one cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "only", "cluster": {"server": server}}],
        "users": [{"name": "only", "user": {"token": "t"}}],
        "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
        "current-context": "only",
    }
