"""The expected numbers come from Go's time.ParseDuration."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.duration import NANOSECONDS, SECOND, parse_go_duration

MINUTE, HOUR = 60 * SECOND, 3600 * SECOND

ACCEPTED = [
    ("0", 0),
    ("-0", 0),
    ("+0", 0),
    ("0s", 0),
    ("5s", 5 * SECOND),
    ("+5s", 5 * SECOND),
    ("-1s", -SECOND),
    ("60s", MINUTE),
    ("1m30s", 90 * SECOND),
    ("30s1m", 90 * SECOND),
    ("1s1s", 2 * SECOND),
    ("1.5h", 90 * MINUTE),
    (".5s", SECOND // 2),
    ("1.s", SECOND),
    ("0.s", 0),
    ("-.5s", -SECOND // 2),
    ("100ms", SECOND // 10),
    ("1ns", 1),
    ("1us", 1_000),
    ("1\N{MICRO SIGN}s", 1_000),
    ("1\N{GREEK SMALL LETTER MU}s", 1_000),
    ("39h9m14.425s", 39 * HOUR + 9 * MINUTE + 14_425_000_000),
    ("1.9ns", 1),
    ("0.3333333333333333333h", 20 * MINUTE),
    ("0.016666666666666666667m", SECOND),
    ("0.100000000000000000000h", 6 * MINUTE),
    ("0.830103483285477580700h", 49 * MINUTE + 48_372_539_827),
    ("0.9223372036854775808s", 922_337_203),
    ("9223372036854775807ns", 2**63 - 1),
    ("-9223372036854775808ns", -(2**63)),
    ("2562047h47m16.854775807s", 2**63 - 1),
    ("0000000000000000000000000000001s", SECOND),
    pytest.param("0." + "0" * 400 + "1h", 0, id="more-zeros-than-a-float-has-exponents"),
    pytest.param("1." + "0" * 5000 + "s", SECOND, id="more-digits-than-python-converts"),
]

REFUSED = [
    "",
    "-",
    "+",
    "60",
    "00",
    "s",
    ".",
    ".s",
    "-.s",
    "1..5s",
    "+-5s",
    "--5s",
    " 5s",
    "5s ",
    "5 s",
    "5S",
    "1d",
    "1w",
    "1sx",
    "1h30",
    "1h-30m",
    "1e3s",
    "5\n",
    "\N{ARABIC-INDIC DIGIT FIVE}s",
    "9223372036854775808ns",
    "-9223372036854775809ns",
    "2562047h47m16.854775808s",
    "9223372036854775807s",
    pytest.param("9" * 5000 + "s", id="more-digits-than-python-converts"),
    pytest.param("1s" * 3000 + "1", id="long-and-wrong-at-its-end"),
]


@pytest.mark.parametrize(("text", "nanoseconds"), ACCEPTED)
def test_accepted(text: str, nanoseconds: int) -> None:
    assert parse_go_duration(text) == nanoseconds


@pytest.mark.parametrize("text", REFUSED)
def test_refused_with_a_line_for_its_author(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no Go duration; write|is longer than a Go duration can be") as refusal:
        parse_go_duration(text)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 200


@given(st.lists(st.tuples(st.integers(0, 1000), st.sampled_from(sorted(NANOSECONDS))), min_size=1))
def test_terms_add_up(terms: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in terms)
    assert parse_go_duration(text) == sum(number * NANOSECONDS[unit] for number, unit in terms)


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    with suppress(ValueError):
        assert abs(parse_go_duration(text)) <= 2**63
