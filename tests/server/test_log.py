"""The log: one JSON object a line, whatever is logged."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from app.server.log import JSONFormatter


def line(
    level: int = logging.INFO,
    message: str = "hello",
    *arguments: object,
    exc_info: Any = None,
    **extra: object,
) -> dict[str, Any]:
    """What one record becomes."""
    logger = logging.getLogger("vm-consistency.test")
    record = logger.makeRecord(logger.name, level, __file__, 1, message, arguments, exc_info, extra=extra)
    text = JSONFormatter().format(record)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_a_record_is_time_severity_logger_and_message() -> None:
    before = datetime.now(UTC)
    parsed = line(logging.WARNING, "%s of %d", "two", 3)

    assert list(parsed) == ["time", "severity", "logger", "message"]
    assert parsed["severity"] == "warning"
    assert parsed["logger"] == "vm-consistency.test"
    assert parsed["message"] == "two of 3"
    written = datetime.fromisoformat(parsed["time"])
    assert written.utcoffset() is not None
    assert abs((written - before).total_seconds()) < 5


def test_fields_are_kept_as_they_are() -> None:
    parsed = line(namespace="shop", seconds=1.5, warnings=["a", "b"], dryRun=True, checks={"policy": "unknown"})

    assert {key: parsed[key] for key in ("namespace", "seconds", "warnings", "dryRun", "checks")} == {
        "namespace": "shop",
        "seconds": 1.5,
        "warnings": ["a", "b"],
        "dryRun": True,
        "checks": {"policy": "unknown"},
    }


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [{1: "a"}, {"a", "b"}, object(), b"\xff", 2**80, "\udcff", "a\nb", ValueError("x"), LOOP],
    ids=["keys-not-text", "set", "object", "bytes", "big-integer", "surrogate", "two-lines", "exception", "loop"],
)
def test_values_of_any_kind_are_one_line(value: object) -> None:
    parsed = line(message="a\nb", field=value, namespace="shop")

    assert (parsed["message"], parsed["namespace"]) == ("a\nb", "shop")
    assert "field" in parsed


def test_an_exception_has_its_traceback_in_the_line() -> None:
    try:
        raise ValueError("a slip")
    except ValueError:
        parsed = line(logging.ERROR, "failed", exc_info=sys.exc_info())

    assert parsed["exception"].startswith("Traceback")
    assert parsed["exception"].endswith("ValueError: a slip")
