"""What a guest says is data: cut, cleaned, compared to the letter, and never run by the shell in `compute`."""

from pathlib import Path

import pytest

from tests.scripts.conftest import HookRunner, Ran

PROMPTS = [
    pytest.param(b"$(touch PWNED) `touch PWNED`; touch PWNED\n", id="commands"),
    pytest.param(b"x[$(touch PWNED)] over - ended\n", id="arithmetic"),
    pytest.param(b"*\n?\n", id="patterns"),
    pytest.param(b"-n -e --help\n", id="options"),
    pytest.param(b"* over - ended\n* held\n", id="run-that-matches-all"),
    pytest.param(b"\x1b]0;title\x07\x1b[2J\rvm-consistency: frozen\x00\x9b31m\xff", id="control-characters"),
    pytest.param(b"A" * 2_000_000, id="megabytes"),
    pytest.param(b"\nvm-consistency: frozen\nvm-consistency: thawed, was frozen until then\n", id="our-own-lines"),
    pytest.param(b'x"],"path":"/bin/evil held\n', id="run-that-breaks-out-of-json"),
    pytest.param(b"x;touch${IFS}PWNED held\n", id="run-that-is-a-command"),
    pytest.param(b"", id="nothing"),
]


def lines_are_ours(ran: Ran) -> None:
    """Every line begins with our name, has only printable ASCII, and there are few."""
    text = ran.out + ran.err
    assert len(text) < 700
    assert all(char == "\n" or " " <= char <= "~" for char in text)
    assert all(line.startswith("vm-consistency: ") for line in text.splitlines())


@pytest.mark.parametrize("answer", PROMPTS)
def test_answers_of_a_hostile_guest(
    hooks: HookRunner, answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cwd"
    place.mkdir()
    monkeypatch.chdir(place)
    hooks.application({"lock": "true"}, {"unlock": "true"})
    (hooks.guest / "answer").write_bytes(answer)
    before = hooks.pre()
    assert not before.ok
    lines_are_ours(before)
    assert before.err.startswith("vm-consistency: pre hook failed: quiesce: ")
    assert before.out == ""
    assert not hooks.frozen
    after = hooks.post()
    assert not after.ok
    lines_are_ours(after)
    assert list(place.iterdir()) == [], "the guest's words were run"
    asked = (hooks.guest / "probed").read_text()
    assert not set(asked) & set('"\\'), "characters that mean something in KubeVirt's JSON"
    assert "PWNED" not in asked
    assert "evil" not in asked


def test_output_of_a_step_is_cut_in_the_guest(hooks: HookRunner) -> None:
    hooks.application({"loud": "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\033[2J'; exit 9"})
    before = hooks.pre()
    lines_are_ours(before)
    assert "step loud ended with 9: xxx" in before.err
    assert len(hooks.status) < 450


def test_a_loud_step_that_works_is_not_stopped_by_the_cut(hooks: HookRunner) -> None:
    hooks.application({"loud": f"head -c 3000000 /dev/zero; {hooks.note('done')}"})
    assert hooks.pre().ok
    assert hooks.log[0] == "done"


@pytest.mark.parametrize(
    "status",
    [
        pytest.param('{"return":"frozen"}x', id="more"),
        pytest.param('{"return":"FROZEN"}', id="capitals"),
        pytest.param('{"return":"frozen","error":{}}', id="another-key"),
        pytest.param('error\n{"return":"frozen"}', id="second-line"),
    ],
)
def test_frozen_is_compared_to_the_letter(hooks: HookRunner, status: str) -> None:
    (hooks.bin / "virsh").write_text(f"#!/bin/sh\ncat <<'E'\n{status}\nE\n")
    hooks.quick = type(hooks.quick)("1s", thaw_timeout="1s")
    hooks.filesystem(require_frozen=False)
    hooks.application({"lock": "true"})
    before = hooks.pre()
    assert before.out == "vm-consistency: not frozen: the guest does not report frozen\n"
