"""The policy from a file: what can't be read is told once, and changes nothing."""

import logging
import threading
from pathlib import Path

import pytest

from app.controllers.policy import file as policy_file
from app.controllers.policy.active import PolicyKeeper
from app.controllers.policy.file import PolicyFile
from app.core.policy import Standing
from app.core.policy_v1alpha1.config_map import Parsed, parse
from tests.infra.factories import policy_text

GOOD = policy_text(default={"level": "crash"}).encode()
LATIN_1 = b"# f\xfcr alle\n" + GOOD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_bytes(GOOD)
    return path


@pytest.fixture
def keeper() -> PolicyKeeper:
    return PolicyKeeper(lambda *_: None)


def put(path: Path, content: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


async def test_each_trouble_is_told_once_and_again_when_it_comes_back(
    path: Path, keeper: PolicyKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "vm-consistency.policy")
    file = PolicyFile(path, keeper)
    for content in (GOOD, None, GOOD, None, LATIN_1, None, LATIN_1):
        put(path, content)
        for _ in range(3):
            await file.check()

    gone, binary = "No such file or directory", "not UTF-8 text, at byte 3"
    assert [vars(record)["error"] for record in caplog.records] == [gone, gone, binary, gone, binary]
    assert {vars(record)["path"] for record in caplog.records} == {str(path)}
    assert keeper.current().standing is Standing.VALID


async def test_the_event_loop_does_not_wait_for_a_policy_to_be_parsed(
    path: Path, keeper: PolicyKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def observed(text: str) -> Parsed:
        threads.append(threading.current_thread())
        return parse(text)

    monkeypatch.setattr(policy_file, "parse", observed)
    file = PolicyFile(path, keeper)
    await file.check()
    await file.check()

    assert len(threads) == 1, "a file that stays the same is parsed once"
    assert threads[0] is not threading.main_thread()
    assert keeper.current().standing is Standing.VALID
