"""What is read out of a record in C is what the exact reader says, whatever the record is."""

import json
from collections.abc import Sequence
from datetime import timedelta
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libs.clock import utc_now
from libs.messaging.records import Record
from services.metering import archive_rows
from services.metering.archive_rows import PLAIN_BYTES_MAX, Row
from services.metering.usage_log import TOPIC

KEY = b"01920000-0000-7000-8000-000000000001"
AT = utc_now().replace(microsecond=0)

NAMES = (
    *("id", "source", "type", "subject", "userid", "time", "mode", "data", "user_id", "x", ""),
    *("record_offset", "received_at", "value", "tenantid", "MODE", "id\\u0000", "\\u0069d"),
    *("mod\\u0065", "\\ud83d\\ude00", "\u00fc", "\x7f"),
)
ODD_NAMES = ("\\ud800", "\\x", "\n", "\\")
TEXTS = (
    *("", "test", "live", "tes\\u0074", "\\u0000", "a\\u0000b", "\\ud83d\\ude00", "\\n", "\\/"),
    *("\x7f", "\u2028", "\u00fc", "\U0001f600", "\\\\", "\\\\u0000", "'", "\ufeff"),
)
ODD_TEXTS = (
    *("\\ud800", "\\udc00", "\\ud83d", "\\ud83dx", "\\ud800\\ud800", "\\x", "\\u12", "\\u12g4"),
    *("\x00", "\x1f", "\n", "\t", "\\", "\\U0041"),
)
NUMBERS = (
    *("0", "-0", "1", "-1", "1.5", "1.50", "-1.5e3", "1e5", "1E+5", "1e-5", "0e0", "1e400"),
    *("1e999999999999999999999", "1e-999999999", "18446744073709551616", "-9223372036854775809"),
    *("9" * 40, "0." + "1" * 90),
)
ODD_NUMBERS = (
    *(
        "01",
        "-01",
        "00",
        "+1",
        "-",
        "1.",
        ".5",
        "1e",
        "1e+",
        "1.e5",
        "1e5.5",
        "0x1",
        "1_000",
        "1.2.3",
    ),
    *("NaN", "Infinity", "-Infinity", "nan", "inf", "1 2", "--1", "\u0661", "1a"),
)
WORDS = ("true", "false", "null")
ODD_WORDS = ("nul", "nulll", "True", "None", "tru", "undefined", "")
SPACES = ("", " ", "\n", "\r\n", "\t")
ODD_SPACES = ("\x0b", "\u00a0", "\ufeff", "\x00")


def _mostly(usual: Sequence[str], odd: Sequence[str]) -> st.SearchStrategy[str]:
    """One of the usual, and seldom one of the odd: a text of odd parts alone is refused at the first."""
    often = max(1, 30 * len(odd) // len(usual))
    return st.sampled_from((*(tuple(usual) * often), *odd))


_simple = st.one_of(
    _mostly(TEXTS, ODD_TEXTS).map(lambda text: f'"{text}"'),
    _mostly(NUMBERS, ODD_NUMBERS),
    _mostly(WORDS, ODD_WORDS),
)
_names = _mostly(NAMES, ODD_NAMES)
_commas = _mostly((",",), (" , ", ",,", ""))
_colons = _mostly((":",), (" : ", "::", "", "="))


def _joined(parts: st.SearchStrategy[str], opening: str, closing: str) -> st.SearchStrategy[str]:
    return st.tuples(st.lists(parts, max_size=4), _commas).map(
        lambda found: opening + found[1].join(found[0]) + closing
    )


def _member(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(_names, _colons, values).map(lambda found: f'"{found[0]}"{found[1]}{found[2]}')


_value = st.recursive(
    _simple,
    lambda inner: st.one_of(_joined(inner, "[", "]"), _joined(_member(inner), "{", "}")),
    max_leaves=8,
)
_modes = st.sampled_from(
    ('"mode":"test"',) * 6 + ('"mode":"live"', '"mode":"x"', '"mode":null', "")
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Texts that are JSON, or nearly."""
    members = draw(st.lists(_member(_value), max_size=6))
    members.insert(draw(st.integers(0, len(members))), draw(_modes))
    before = draw(_mostly(SPACES, ODD_SPACES))
    after = draw(_mostly(SPACES, (*ODD_SPACES, ",", "}", "x")))
    text = before + "{" + ",".join(each for each in members if each) + "}" + after
    value = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 9:
        place = draw(st.integers(0, len(value)))
        cut = draw(st.integers(0, 2))
        put = draw(
            st.sampled_from((b"", b'"', b"\\", b"{", b"]", b"\xff", b"\xed\xa0\x80", b"\xc3"))
        )
        value = value[:place] + put + value[place + cut :]
    return value


def record(value: bytes | None) -> Record:
    return Record(TOPIC, 3, 7, AT, KEY, value)


def read_row(value: bytes | None) -> Row | None:
    rows = list(archive_rows.rows_by_place([record(value)]).values())
    return rows[0][0] if rows else None


def read_both(value: bytes | None) -> tuple[Row | None, Row | None]:
    """What is read of a record, and what by the exact reader alone."""
    quick = read_row(value)
    with patch.object(archive_rows, "PLAIN_BYTES_MAX", -1):
        return quick, read_row(value)


@settings(max_examples=500)
@given(documents())
@example(b'{"mode":"live","mode":"test","id":"a","id":"b","id":null}')
@example(b'{"mode":"test","id":"a","id":7}')
@example(b'{"mode":"test","id":7,"id":"a","subject":["x"]}')
@example(b'{"mode":"test","value":"x","received_at":5,"record_offset":9}')
@example(b'{"mode":"test","value":5}')
@example(b'{"mode":"test","data":{"n":NaN,"i":-Infinity}}')
@example(b'{"mode":"test","id":"\\ud800","data":"\\ud800"}')
@example(b'["test"]')
def test_a_record_is_read_as_the_exact_reader_reads_it(value: bytes) -> None:
    quick, exact = read_both(value)
    assert quick == exact
    if quick is not None:
        assert (quick.record_offset, quick.value.encode()) == (7, value)


@pytest.mark.parametrize("size", [PLAIN_BYTES_MAX - 40, PLAIN_BYTES_MAX + 40, 6_000, 300_000])
@pytest.mark.parametrize(
    ("opening", "filling", "closing"),
    [
        ('{"mode":"test","n":', "9", "}"),
        ('{"mode":"test","n":0.', "1", "}"),
        ('{"mode":"test","n":1e', "9", "}"),
        ('{"mode":"test","n":', "[", "}"),
        ('{"mode":"test","id":"', "x", '"}'),
        ('{"mode":"test","x":"', "\\ud800", '"}'),
    ],
)
def test_what_is_long_is_read_the_same(opening: str, filling: str, closing: str, size: int) -> None:
    filled = filling * ((size - len(opening) - len(closing)) // len(filling))
    quick, exact = read_both((opening + filled + closing).encode())
    assert quick == exact


@pytest.mark.parametrize("levels", [300, 700, 5_000])
def test_what_is_nested_is_read_the_same(levels: int) -> None:
    value = '{"mode":"test","x":' + "[" * levels + "]" * levels + "}"
    quick, exact = read_both(value.encode())
    assert quick == exact
    assert (quick is None) == (levels == 5_000)


def test_a_short_text_with_a_number_too_long_for_python_is_none_of_the_quick_reader_s() -> None:
    value = b'{"mode":"test","n":' + b"9" * 4_400 + b"}"
    assert read_both(value) == (None, None)
    with patch.object(archive_rows, "PLAIN_BYTES_MAX", 10_000):
        assert read_row(value) is not None, "so the limit has a reason"


def test_rows_lie_by_tenant_mode_and_day_in_the_order_of_their_offsets() -> None:
    times = [AT, AT - timedelta(days=1), AT + timedelta(seconds=-1), AT]
    records = [
        Record(TOPIC, 3, place, at, key, json.dumps({"mode": mode}).encode())
        for place, (at, key, mode) in enumerate(
            (at, key, mode) for at in times for key in (KEY, b"nobody") for mode in ("test", "live")
        )
    ]
    found = archive_rows.rows_by_place(records)
    assert {(mode, day) for _, mode, day in found} == {
        (mode, at.date()) for mode in ("test", "live") for at in times
    }
    for (_, mode, day), rows in found.items():
        same = [each for each in records if each.key == KEY and each.at.date() == day]
        offsets = [each.offset for each in same if json.loads(each.value or b"")["mode"] == mode]
        assert [row.record_offset for row in rows] == offsets
        assert [row.received_at for row in rows] == [
            int(records[offset].at.timestamp()) * 1_000_000 for offset in offsets
        ]
