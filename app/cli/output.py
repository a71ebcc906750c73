"""What every command has in common: reading files, printing results, exit codes."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from app.settings import Settings

FINDING = 1
MISUSE = 2


class Output(StrEnum):
    """How a result is printed."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]


def misuse(message: str) -> NoReturn:
    """End the command, telling the user what to do differently."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(MISUSE)


def read_settings(**chosen: Any) -> "Settings":
    """Return the settings of the environment, with those of `chosen` that are not None instead."""
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings(**{key: value for key, value in chosen.items() if value is not None})
    except ValidationError as error:
        problems = (f"VM_CONSISTENCY_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        misuse("; ".join(problems))


def read_text(path: Path) -> str:
    """Return the text of a file, or of standard input for `-`."""
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        misuse(f"{path}: {error.strerror or error}")
    except UnicodeDecodeError as error:
        misuse(f"{path}: not UTF-8 text, at byte {error.start}")


def print_json(result: Any) -> None:
    """Print a result for programs."""
    import json

    typer.echo(json.dumps(result, indent=2))
