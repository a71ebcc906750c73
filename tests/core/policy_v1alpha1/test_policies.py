"""Each policy in `policies` has its findings beside it, as `policy check` words them; no findings, an empty file."""

from pathlib import Path

import pytest

from app.core.policy_v1alpha1.load import PolicyError, load_policy

FOLDER = Path(__file__).parent / "policies"
CASES = sorted(FOLDER.glob("*.yaml"))


def report(path: Path) -> str:
    """Everything that is said about the policy, a line for each finding."""
    try:
        lines = [f"warning: {doubt}" for doubt in load_policy(path.read_text()).doubts]
    except PolicyError as error:
        lines = [f"error: {finding}" for finding in error.findings]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_findings(path: Path) -> None:
    assert report(path) == path.with_suffix(".findings").read_text()


def test_every_file_belongs_to_a_case() -> None:
    known = {path.with_suffix(suffix) for path in CASES for suffix in (".yaml", ".findings")}
    assert set(FOLDER.iterdir()) == known
    assert len(CASES) > 30
