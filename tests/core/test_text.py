import pytest

from app.core.text import MAX_LINE, MAX_QUOTED, one_line, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain", "'plain'", id="plain"),
        pytest.param("it's", '"it\'s"', id="apostrophe"),
        pytest.param("a\nb\x1b[31m", "'a\\nb\\x1b[31m'", id="control-characters"),
        pytest.param("\N{PILE OF POO}", "'\\U0001f4a9'", id="beyond-ascii"),
        pytest.param("x" * MAX_QUOTED, f"'{'x' * MAX_QUOTED}'", id="longest"),
        pytest.param("x" * (MAX_QUOTED + 1), f"'{'x' * (MAX_QUOTED - 1)}...", id="too-long"),
        pytest.param("\n" * MAX_QUOTED, "'" + "\\n" * 29 + "\\...", id="too-long-by-its-escapes"),
    ],
)
def test_quoted(text: str, shown: str) -> None:
    assert quoted(text) == shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("a plain line", "a plain line", id="as-it-is"),
        pytest.param(" two\r\n  lines\t", "two lines", id="white-space"),
        pytest.param("Grüße", "Grüße", id="printable"),
        pytest.param("bell\x07 é", "bell\\x07 \\xe9", id="control-character"),
        pytest.param("x" * 5000, "x" * (MAX_LINE - 3) + "...", id="long"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_one_line_is_bounded_even_where_everything_is_escaped() -> None:
    assert len(one_line("\x07" * 5000)) <= MAX_LINE
