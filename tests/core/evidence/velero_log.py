"""A backup's log as Velero 1.18.3 writes it: the messages and fields of its source, in the form of logrus 1.9.4.

tests/data/velero-log holds what logrus itself made of such entries, and lines of the real server.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 11, 21, 9, 0, 0, tzinfo=UTC)
BACKUP = "velero/nightly"

_BARE = re.compile(r"[A-Za-z0-9\-._/@^+]*")
_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}


def go_quoted(text: str) -> str:
    """What Go's %q makes of a text."""

    def character(one: str) -> str:
        if one in '"\\':
            return f"\\{one}"
        if one in _ESCAPES:
            return _ESCAPES[one]
        if one.isprintable():
            return one
        code = ord(one)
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return '"' + "".join(map(character, text)) + '"'


class VeleroLog:
    """Lines of one backup; `at` is the time of the next one, in seconds after START.

    `pod` gives every line namespace and name, as Velero did before 1.15.
    """

    def __init__(self, *, as_json: bool = False, level: str = "info") -> None:
        self.lines: list[str] = []
        self.at = 0.0
        self._json, self._level = as_json, level
        self.add("info", "Setting up backup temp file")

    def add(self, level: str, message: str, **fields: Any) -> None:
        """One entry."""
        if level == "info" and self._level != "info":
            return
        time = (START + timedelta(seconds=int(self.at))).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = {"backup": BACKUP, **{key.replace("_", "."): value for key, value in fields.items()}}
        if self._json:
            whole = {**entry, "level": level, "msg": message, "time": time}
            self.lines.append(json.dumps(whole, separators=(",", ":"), ensure_ascii=False) + "\n")
        else:
            head = {"time": time, "level": level, "msg": message}
            pairs = {**head, **dict(sorted(entry.items()))}.items()
            self.lines.append(" ".join(f"{key}={_value(key, value)}" for key, value in pairs) + "\n")

    def hook(
        self,
        phase: str,
        command: Sequence[str],
        *,
        stdout: str = "",
        stderr: str = "",
        seconds: float = 0.0,
        error: str | None = None,
        on_error: str = "Continue",
        source: str = "annotation",
        pod: tuple[str, str] | None = None,
    ) -> None:
        """A hook from its start to its end."""
        steps = self.steps(phase, command, stdout, stderr, error, on_error, source, pod)
        next(steps)
        self.at += seconds
        for _ in steps:
            pass

    def steps(
        self,
        phase: str,
        command: Sequence[str],
        stdout: str = "",
        stderr: str = "",
        error: str | None = None,
        on_error: str = "Continue",
        source: str = "annotation",
        pod: tuple[str, str] | None = None,
    ) -> Iterator[None]:
        """The same, line by line, so that those of several hooks can mix."""
        where = {"namespace": pod[0], "name": pod[1]} if pod else {}
        about = {"hookPhase": phase, "hookSource": source, "hookType": "exec", **where}
        self.add("info", "running exec hook", **self._full(command, on_error), **about)
        yield
        if error is None or not error.startswith("timed out after "):
            self.add("info", f"stdout: {stdout}", **self._full(command, on_error), **about)
            yield
            self.add("info", f"stderr: {stderr}", **self._full(command, on_error), **about)
            yield
        if error is not None:
            self.failure(phase, error, source, where)

    def failure(
        self, phase: str, error: str, source: str = "annotation", where: Mapping[str, str] | None = None
    ) -> None:
        """The line of a hook that failed."""
        key = "error_message" if self._json else "error"
        fields = {key: error, "hookPhase": phase, "hookSource": source, "hookType": "exec", **(where or {})}
        self.add("error", "Error executing hook", **fields)

    def skipped(self, phase: str, command: Sequence[str]) -> None:
        """A hook of a pod that has completed."""
        message = "Pod entered phase Succeeded before some post-backup exec hooks ran"
        about = {"hookPhase": phase, "hookSource": "annotation", "hookType": "exec"}
        self.add("info", message, **self._full(command, "Continue"), **about)

    def left_out(self, pod: str, error: str) -> None:
        """What follows a pre hook that failed under on-error Fail."""
        self.add("error", "Error running pre hooks for pod", error=error, name=pod)

    def _full(self, command: Sequence[str], on_error: str) -> dict[str, Any]:
        return {
            "hookName": "<from-annotation>",
            "hookContainer": "compute",
            "hookCommand": list(command),
            "hookOnError": on_error,
            "hookTimeout": "1m0s" if self._json else "{1m0s}",
        }


def _value(key: str, value: Any) -> str:
    text = f"[{' '.join(value)}]" if isinstance(value, list) else str(value)
    return text if _BARE.fullmatch(text) and key != "time" else go_quoted(text)


def freezer_line(message: str, level: str = "info", **fields: str) -> str:
    """A line of virt-freezer."""
    entry = {"component": "freezer", "level": level, "msg": message, "pos": "virt-freezer.go:119", **fields}
    return json.dumps({**entry, "timestamp": "2026-11-21T09:00:00.000000Z"}, separators=(",", ":")) + "\n"


AGENT = freezer_line("Guest agent version is 8.2.2")
DONE = AGENT + freezer_line("Operation completed successfully")
NO_AGENT = freezer_line("No guest agent, exiting")
PAUSED = AGENT + freezer_line("VM domain not running, no need to freeze/unfreeze")
EXIT_1 = "command terminated with exit code 1"
