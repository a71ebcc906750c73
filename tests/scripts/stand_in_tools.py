"""Stand-ins for virt-freezer, virt-probe and virsh, for tests of the hook scripts alone; tests/e2e has the real ones.

Called by one of those names, with the folder of the stand-in guest in STAND_IN_GUEST. The guest is this machine:
commands run in a shell here, with the folder in place of /run. What it imitates, of kubevirt v1.8.4: virt-probe pastes
its arguments into JSON as they are, ends with the command's exit code and with 2 where the agent refuses or is silent;
virt-freezer ends with 0 where there is no agent; a frozen guest runs no command. Files in the folder steer it:
`frozen`, `no-agent`, `silent` (of the agent, which is waited for), `freeze-fails`, `freeze-hangs` (and takes place
later), `freeze-lies`, `thaw-fails`, `thaw-lies`, `thaw-limited`, `paused`, `deaf` (to a number of commands), `late`
(the first command runs after virt-probe gave up), `answer` (what commands print instead of their output).

Hooks call these all the time, so what few calls need is imported late. Time passes in `sleep` and `timeout` alone,
which a test may replace.
"""

import os
import sys

GUEST = os.environ["STAND_IN_GUEST"]


def is_set(*names: str) -> bool:
    return any(os.path.exists(f"{GUEST}/{name}") for name in names)


def add(name: str, line: str) -> None:
    with open(f"{GUEST}/{name}", "a") as file:
        file.write(line + "\n")


def run(*command: str) -> int:
    return os.spawnvp(os.P_WAIT, command[0], command)


def leave(code: str, *arguments: str) -> None:
    """Run code that goes on when the caller has ended."""
    os.spawnlp(os.P_NOWAIT, "setsid", "setsid", "sh", "-c", f"exec >/dev/null 2>&1; {code}", "left", *arguments)


def virt_freezer(arguments: list[str]) -> int:
    assert arguments[arguments.index("--name") + 1] == "db"
    assert arguments[arguments.index("--namespace") + 1] == "shop"
    if is_set("no-agent"):
        print('{"component":"freezer","msg":"No guest agent, exiting"}', file=sys.stderr)
        return 0
    if is_set("paused"):
        print('{"component":"freezer","msg":"VM domain not running, no need to freeze/unfreeze"}', file=sys.stderr)
        return 0
    if "--unfreeze" in arguments:
        return _thaw()
    add("log", " ".join(["freeze", *arguments[arguments.index("--unfreezeTimeoutSeconds") :][:2]]))
    if is_set("freeze-fails"):
        print("freeze did not work\x1b[31m", file=sys.stderr)
        return 1
    if is_set("freeze-hangs"):
        leave('sleep 3; touch "$1"', f"{GUEST}/frozen")
        run("sleep", "60")
    if not is_set("freeze-lies"):
        open(f"{GUEST}/frozen", "w").close()
    return 0


def _thaw() -> int:
    add("log", "thaw")
    if is_set("thaw-limited"):  # Windows, once
        os.unlink(f"{GUEST}/thaw-limited")
        os.unlink(f"{GUEST}/frozen")
        print("couldn't hold writes: fsfreeze is limited up to 10 seconds", file=sys.stderr)
        return 1
    if is_set("thaw-lies"):
        return 0
    if is_set("thaw-fails"):
        print("thaw did not work", file=sys.stderr)
        return 1
    if is_set("frozen"):
        os.unlink(f"{GUEST}/frozen")
    return 0


def virsh(arguments: list[str]) -> int:
    assert arguments[:3] == ["-q", "qemu-agent-command", "shop_db"], arguments
    assert arguments[-1] == '{"execute":"guest-fsfreeze-status"}'
    if is_set("silent"):
        run("sleep", "5")
    if is_set("no-agent", "silent", "paused"):
        print("error: Guest agent is not responding", file=sys.stderr)
        return 1
    print('{"return":"%s"}\n' % ("frozen" if is_set("frozen") else "thawed"))
    return 0


def virt_probe(arguments: list[str]) -> int:
    assert arguments[:2] == ["--domainName", "shop_db"]
    seconds, command = int(arguments[3]), arguments[5]
    assert seconds >= 1
    words = arguments[arguments.index("--") + 1 :]
    add("probed", "\n".join(words))
    command, words = _pasted(command, words)
    if is_set("silent"):
        run("sleep", str(seconds))
    if is_set("no-agent", "silent", "paused", "frozen"):
        return 2
    if is_set("deaf"):  # to as many commands as it says
        with open(f"{GUEST}/deaf", "r+") as file:
            left = int(file.read()) - 1
            file.seek(0)
            file.write(str(left))
            file.truncate()
        if not left:
            os.unlink(f"{GUEST}/deaf")
        return 2
    if is_set("answer"):
        with open(f"{GUEST}/answer", "rb") as answer:
            sys.stdout.buffer.write(answer.read())
        return 0
    if command == "powershell.exe":
        return _powershell(words)
    words = [_here(word) for word in words]
    if is_set("late"):
        os.unlink(f"{GUEST}/late")
        leave('sleep 1; exec "$@"', command, *words)
        return 2
    code = run("timeout", "--foreground", str(seconds), command, *words)
    return 2 if code == 124 else code


def _pasted(command: str, words: list[str]) -> tuple[str, list[str]]:
    """What the agent makes of the JSON; most characters stand for themselves there."""
    if all(" " <= char <= "~" and char not in '"\\' for char in command + "".join(words)):
        return command, words
    import json

    pasted = '{"path": "' + command + '", "arg": ["' + '", "'.join(words) + '"]}'
    request = json.loads(pasted)
    return request["path"], request["arg"]


def _here(code: str) -> str:
    """Put the guest's folder in place of /run, within what is base64 too."""
    code = code.replace("/run/vm-consistency", f"{GUEST}/run")
    _, before, rest = code.partition("echo ")
    packed, after, _ = rest.partition("|base64 -d|gzip -d")
    if not (before and after):
        return code
    import base64
    import gzip

    text = gzip.decompress(base64.b64decode(packed)).decode().replace("/run/vm-consistency", f"{GUEST}/run")
    return code.replace(packed, base64.b64encode(gzip.compress(text.encode())).decode())


def _powershell(words: list[str]) -> int:
    """No PowerShell here: the code is a command for sh."""
    import base64

    assert words[:3] == ["-NoProfile", "-NonInteractive", "-EncodedCommand"]
    return run("sh", "-c", base64.b64decode(words[3]).decode("utf-16-le"))


if __name__ == "__main__":
    tools = {"virt-freezer": virt_freezer, "virsh": virsh, "virt-probe": virt_probe}
    sys.exit(tools[os.path.basename(sys.argv[0])](sys.argv[1:]))
