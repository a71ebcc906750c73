"""Structured logs: one JSON object a line, on standard error, without pod contents."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

_STANDARD = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"))
"""Attributes that every record has; the rest came in by `extra` and are its structured fields."""


class JSONFormatter(logging.Formatter):
    """Renders a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, severity, logger and message, then the record's own fields."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate from a file's name, a number beyond 64 bits
            return json.dumps({key: value if isinstance(value, str) else ascii(value) for key, value in line.items()})


def configure(level: str) -> None:
    """Send every logger of the process through one JSON handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the process tells itself when it is ready
