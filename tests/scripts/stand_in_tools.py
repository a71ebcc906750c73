"""Stand-ins for virt-freezer, virt-probe and virsh, for tests of the hook scripts alone; tests/e2e has the real ones.

Called by one of those names, with the folder of the stand-in guest in STAND_IN_GUEST. The guest is this machine:
commands run in a shell here, with the folder in place of /run. What it imitates, of kubevirt v1.8.4: virt-probe pastes
its arguments into JSON as they are, ends with the command's exit code and with 2 where the agent refuses or is silent;
virt-freezer ends with 0 where there is no agent; a frozen guest runs no command. Files in the folder steer it:
`frozen`, `no-agent`, `silent` (of the agent, for status and commands), `freeze-fails`, `freeze-hangs` (and takes place
later), `freeze-lies`, `thaw-fails`, `thaw-lies`, `thaw-limited`, `paused`, `deaf` (to a number of commands), `late`
(the first command runs after virt-probe gave up), `answer` (what commands print instead of their output).
"""

import base64
import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

GUEST = Path(os.environ["STAND_IN_GUEST"])


def is_set(name: str) -> bool:
    return (GUEST / name).exists()


def log(*words: str) -> None:
    with (GUEST / "log").open("a") as file:
        file.write(" ".join(words) + "\n")


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
        log("thaw")
        if is_set("thaw-limited"):  # Windows, once
            (GUEST / "thaw-limited").unlink()
            (GUEST / "frozen").unlink()
            print("couldn't hold writes: fsfreeze is limited up to 10 seconds", file=sys.stderr)
            return 1
        if is_set("thaw-lies"):
            return 0
        if is_set("thaw-fails"):
            print("thaw did not work", file=sys.stderr)
            return 1
        (GUEST / "frozen").unlink(missing_ok=True)
        return 0
    log("freeze", *arguments[arguments.index("--unfreezeTimeoutSeconds") :][:2])
    if is_set("freeze-fails"):
        print("freeze did not work\x1b[31m", file=sys.stderr)
        return 1
    if is_set("freeze-hangs"):
        subprocess.Popen(["sh", "-c", f"sleep 3; touch {GUEST}/frozen"], start_new_session=True)
        time.sleep(60)
    if not is_set("freeze-lies"):
        (GUEST / "frozen").touch()
    return 0


def virsh(arguments: list[str]) -> int:
    assert arguments[:3] == ["-q", "qemu-agent-command", "shop_db"], arguments
    assert json.loads(arguments[-1]) == {"execute": "guest-fsfreeze-status"}
    if any(map(is_set, ("no-agent", "silent", "paused"))):
        print("error: Guest agent is not responding", file=sys.stderr)
        return 1
    print(json.dumps({"return": "frozen" if is_set("frozen") else "thawed"}, separators=(",", ":")) + "\n")
    return 0


def virt_probe(arguments: list[str]) -> int:
    assert arguments[:2] == ["--domainName", "shop_db"]
    seconds, command = int(arguments[3]), arguments[5]
    assert seconds >= 1
    words = arguments[arguments.index("--") + 1 :]
    with (GUEST / "probed").open("a") as file:
        file.write("\n".join(words) + "\n")
    pasted = '{"path": "' + command + '", "arg": ["' + '", "'.join(words) + '"]}'
    request = json.loads(pasted)
    if any(map(is_set, ("no-agent", "silent", "paused", "frozen"))):
        return 2
    if is_set("deaf"):  # to as many commands as it says
        left = int((GUEST / "deaf").read_text()) - 1
        (GUEST / "deaf").write_text(str(left)) if left else (GUEST / "deaf").unlink()
        return 2
    if is_set("answer"):
        sys.stdout.buffer.write((GUEST / "answer").read_bytes())
        return 0
    if request["path"] == "powershell.exe":
        return _powershell(request["arg"])
    words = [_here(word) for word in request["arg"]]
    if is_set("late"):
        (GUEST / "late").unlink()
        subprocess.Popen(["sh", "-c", 'sleep 1; exec "$@"', "late", command, *words], stdout=subprocess.DEVNULL)
        return 2
    try:
        ran = subprocess.run([request["path"], *words], stdout=subprocess.PIPE, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return 2
    sys.stdout.buffer.write(ran.stdout)
    return ran.returncode


def _here(code: str) -> str:
    """Put the guest's folder in place of /run, within what is base64 too."""
    code = code.replace("/run/vm-consistency", str(GUEST / "run"))

    def moved(match: re.Match[str]) -> str:
        text = gzip.decompress(base64.b64decode(match[1])).decode().replace("/run/vm-consistency", str(GUEST / "run"))
        return f"echo {base64.b64encode(gzip.compress(text.encode())).decode()}|"

    return re.sub(r"echo ([A-Za-z0-9+/=]+)\|", moved, code)


def _powershell(words: list[str]) -> int:
    """No PowerShell here: the code is a command for sh."""
    assert words[:3] == ["-NoProfile", "-NonInteractive", "-EncodedCommand"]
    ran = subprocess.run(["sh", "-c", base64.b64decode(words[3]).decode("utf-16-le")], check=False)
    return ran.returncode


if __name__ == "__main__":
    tools = {"virt-freezer": virt_freezer, "virsh": virsh, "virt-probe": virt_probe}
    sys.exit(tools[Path(sys.argv[0]).name](sys.argv[1:]))
