"""Reading of a backup's log: which hooks Velero ran, and what they printed.

Each hook is a few lines that are told apart by their fields (velero v1.18.3, internal/hook/item_hook_handler.go and
pkg/podexec/pod_command_executor.go). Since 1.15 none of them names the pod; the command has to. The line of a failure
does not even have the command: it belongs to the hook that ended last, or ran out of its time, unless several ran at
once (--item-block-worker-count). The text is logrus' logfmt, with values quoted as Go does, or JSON
(--log-format json).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from app.core.evidence.hook_output import OWN, Known, read_post_hook, read_pre_hook
from app.core.evidence.velero_hooks import Phase

Pod = tuple[str, str]
"""Namespace and name."""

MAX_OUTPUT: Final = 64 * 1024
"""Characters kept of one stream of one hook."""
MAX_HOOKS: Final = 200_000

_PHASES: dict[str, Phase] = {phase.value: phase for phase in Phase}
_STARTED = "running exec hook"
_STDOUT, _STDERR = "stdout: ", "stderr: "
_FAILED = "Error executing hook"
_SKIPPED = re.compile("Pod entered phase .* before some post-backup exec hooks ran")
_LEFT_OUT = "Error running pre hooks for pod"
_BEFORE_START = re.compile("no such container: |need at least 1 container|command is required")
_TIMED_OUT = "timed out after "
_AT_ONCE = timedelta(seconds=2)
"""Between the end of a hook and the line of its failure lies nothing but another line; times are whole seconds."""
_MOST_AT_ONCE = 64
"""More than the item block workers that anybody lets a backup have."""

_FIELD = re.compile(r'([A-Za-z_@][\w.@-]*)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)")
_SHORT_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(slots=True, eq=False)
class HookRun:
    """One hook in one pod."""

    phase: Phase
    command: str
    """The argv as Velero prints it: joined by blanks, in square brackets."""
    source: str
    """`annotation`, or `spec` for a hook of Backup.spec.hooks."""
    on_error: str
    timeout: str
    started: datetime | None
    pod: Pod | None
    """Only Velero before 1.15 says it."""
    ended: datetime | None = None
    """None where it did not end before its timeout."""
    stdout: str | None = None
    stderr: str | None = None
    error: str | None = None
    doubtful: bool = False
    """Whether this hook may be the one that failed: several were at work, and Velero does not say which it was."""


@dataclass(slots=True)
class HookLog:
    """What a log says of hooks, in its order."""

    runs: list[HookRun] = field(default_factory=list)
    skipped: int = 0
    """Hooks that Velero counts as attempted but did not run, because their pod had completed."""
    failures: list[str] = field(default_factory=list)
    """Errors of hooks that did not start, or that can't be told apart; Velero does not say of which pod."""
    left_out: set[str] = field(default_factory=set)
    """Names of pods that are not in the backup, because their pre hook failed under on-error Fail."""
    tells: bool = False
    """Whether it has lines of level info; below that (velero server --log-level) it shows failures only."""
    cut: bool = False
    """Whether it shows more hooks than are read."""


def read_hook_log(lines: Iterable[str]) -> HookLog:
    """Read a log; lines that are not understood are left out."""
    reader = _Reader()
    for line in lines:
        reader.take(line)
    return reader.log


def parse_line(line: str) -> dict[str, str]:
    """Return the fields of a line; a list becomes what Go prints for it. Empty for a line that has none."""
    if line.startswith("{"):
        return _parse_json(line)
    return {key: _unquoted(value) for key, value in _FIELD.findall(line)}


def _parse_json(line: str) -> dict[str, str]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return {key: _as_go_prints(value) for key, value in entry.items()} if isinstance(entry, dict) else {}


def _as_go_prints(value: Any) -> str:
    return f"[{' '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _unquoted(value: str) -> str:
    return _ESCAPE.sub(_unescaped, value[1:-1]) if value.startswith('"') else value


def _unescaped(escape: re.Match[str]) -> str:
    kind, rest = escape[1][0], escape[1][1:]
    if not rest:
        return _SHORT_ESCAPES.get(kind, kind)
    code = int(rest, 16)
    is_stray_byte = kind == "x" and code >= 0x80  # of a text that is no UTF-8
    return "\ufffd" if is_stray_byte or code > 0x10FFFF else chr(code)


def _time(fields: dict[str, str]) -> datetime | None:
    try:
        time = datetime.fromisoformat(fields.get("time", ""))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class _Reader:
    def __init__(self) -> None:
        self.log = HookLog()
        self._open: list[HookRun] = []
        self._ended: list[HookRun] = []
        """Those that may still turn out to have failed."""
        self._at_once = False

    def take(self, line: str) -> None:
        if not self.log.tells and re.search(r"""level=info|"level":"info""", line):
            self.log.tells = True
        if "hookPhase" not in line and _LEFT_OUT not in line:
            return
        fields = parse_line(line.rstrip("\n"))
        message, phase = fields.get("msg", ""), fields.get("hookPhase", "")
        if message == _LEFT_OUT and fields.get("name"):
            self.log.left_out.add(fields["name"])
        elif phase in _PHASES:
            self._hook(message, _PHASES[phase], fields)

    def _hook(self, message: str, phase: Phase, fields: dict[str, str]) -> None:
        if message == _STARTED:
            self._start(phase, fields)
        elif message.startswith((_STDOUT, _STDERR)):
            self._output(message, phase, fields)
        elif message == _FAILED:
            self._failure(phase, fields)
        elif _SKIPPED.fullmatch(message):
            self.log.skipped += 1

    def _start(self, phase: Phase, fields: dict[str, str]) -> None:
        if len(self.log.runs) >= MAX_HOOKS:
            self.log.cut = True
            return
        command, source, on_error = (fields.get(key, "") for key in ("hookCommand", "hookSource", "hookOnError"))
        timeout = fields.get("hookTimeout", "").strip("{}")  # in logfmt it is a struct
        run = HookRun(phase, command, source, on_error, timeout, _time(fields), _pod(fields))
        self._at_once |= bool(self._open)
        self._open = [*self._open[-_MOST_AT_ONCE:], run]
        self.log.runs.append(run)

    def _output(self, message: str, phase: Phase, fields: dict[str, str]) -> None:
        about = (phase, fields.get("hookCommand", ""), _pod(fields))
        same = [run for run in self._open if (run.phase, run.command, run.pod) == about]
        text = message[len(_STDOUT) :][:MAX_OUTPUT]
        if message.startswith(_STDOUT):
            run = next((run for run in same if run.stdout is None), None)
            if run:
                run.stdout = text
        elif run := next((run for run in same if run.stderr is None), None):
            run.stderr, run.ended = text, _time(fields)
            self._open.remove(run)
            recent = self._ended[-_MOST_AT_ONCE:]
            self._ended = [earlier for earlier in recent if _together(earlier.ended, run.ended)] + [run]

    def _failure(self, phase: Phase, fields: dict[str, str]) -> None:
        error = fields.get("error") or fields.get("error.message") or "no reason is given"
        candidates = [] if _BEFORE_START.match(error) else self._candidates(phase, error, fields)
        if len(candidates) == 1:
            [run] = candidates
            run.error, run.doubtful = error, False
            for runs in (self._open, self._ended):
                if run in runs:
                    runs.remove(run)
            return
        for run in candidates:
            run.doubtful = True
        self.log.failures.append(f"{phase} hook: {error}")

    def _candidates(self, phase: Phase, error: str, fields: dict[str, str]) -> list[HookRun]:
        pod, source, at = _pod(fields), fields.get("hookSource", ""), _time(fields)

        def fits(run: HookRun) -> bool:
            return (run.phase, run.source, run.pod) == (phase, source, pod)

        if error.startswith(_TIMED_OUT):
            # Of those with the same timeout the first one is the first to run out of it.
            timeout = error.removeprefix(_TIMED_OUT)
            return [run for run in self._open if fits(run) and run.timeout in (timeout, "")][:1]
        ended = [run for run in self._ended if fits(run) and _together(run.ended, at)]
        ended = ended if self._at_once else ended[-1:]
        ended = [run for run in ended if not _says_success(run)] or ended
        return ended or [run for run in self._open if fits(run)]


def _says_success(run: HookRun) -> bool:
    """Whether it printed what our scripts and virt-freezer print only before they end with 0."""
    stdout, stderr = run.stdout or "", run.stderr or ""
    if f"{OWN}{run.phase} hook failed: " in stderr:
        return False
    if run.phase is Phase.PRE:
        return read_pre_hook(stdout, stderr, failed=False).frozen is not Known.UNKNOWN
    return read_post_hook(stdout, stderr, failed=False).thawed is Known.YES


def _pod(fields: dict[str, str]) -> Pod | None:
    namespace, name = fields.get("namespace"), fields.get("name")
    return (namespace, name) if namespace and name else None


def _together(earlier: datetime | None, later: datetime | None) -> bool:
    return earlier is None or later is None or later - earlier < _AT_ONCE
