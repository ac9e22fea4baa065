"""The fast readers and writers come to the same as those that read everything."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libs.clock import format_time, utc_now
from libs.ids import new_id
from libs.messaging.records import Record, UndecodableError
from services.metering import exact_json, usage_event, usage_record
from services.metering.event_ids import hash_of_id
from services.metering.ingest import Arrival, RejectedError, Taken, read_event
from services.metering.measuring import Meter
from services.metering.plain_events import Plain, read_array, read_item, read_plain
from services.metering.usage_log import TOPIC

TENANT = UUID("01890000-0000-7000-8000-000000000001")
NOW = utc_now()
ARRIVAL = Arrival(
    TENANT,
    "test",
    NOW,
    3_600,
    [Meter(TENANT, new_id(), "calls", "api.call", "sum", "calls", ("region",), {})],
)
NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.sampled_from(["NaN", "1e400", "-0.0", "1E+5", "0.10", "01", "9" * 80, "0." + "1" * 70]),
)
TEXTS = st.one_of(
    st.sampled_from(["", "x", "é😀", "\x00", "\x7f\u2028", "x" * 129, "x" * 257, "\ud800"]),
    st.text(max_size=12),
)
TIMES = st.sampled_from(
    [
        *(format_time(NOW - timedelta(days=days)) for days in (0, 1, 33, 40)),
        *("soon", "2026-01-01T00:00:00", "20260101T000000Z", "0001-01-01T00:00:00+14:00"),
        NOW.isoformat(),
        (NOW - timedelta(hours=1)).isoformat(timespec="seconds"),
    ]
)
DATA = st.one_of(
    st.builds(lambda n: f'{{"calls":{n},"region":"eu"}}', NUMBERS),
    st.builds(lambda n, t: f'{{"region":{json.dumps(t)},"calls":1,"n":[{n}]}}', NUMBERS, TEXTS),
    st.sampled_from(["[]", "null", "{}", '"x"', '{"calls":{"a":1}}', '{"calls":1,"calls":2}']),
)


def text(value: object) -> str:
    return json.dumps(value)


MEMBERS = st.fixed_dictionaries(
    {"id": TEXTS.map(text), "type": st.sampled_from(['"api.call"', '"other"', "5"]), "data": DATA},
    optional={
        "source": st.one_of(TEXTS.map(text), st.just("null")),
        "specversion": st.sampled_from(['"1.0"', '"0.3"', "null"]),
        "subject": st.one_of(TEXTS.map(text), st.just("null")),
        "time": st.one_of(TIMES.map(text), st.sampled_from(["null", "7"])),
        "userid": TEXTS.map(text),
        "mode": st.sampled_from(['"test"', '"live"', '"both"', "null"]),
        "datacontenttype": st.sampled_from(['"application/json"', '"text/xml"', "null"]),
        "extra": st.sampled_from(['"x"', "1", "[]"]),
        "receivedat": st.sampled_from(['"1999-01-01T00:00:00Z"', f'"{format_time(NOW)}"', "null"]),
        "clockoffset": st.sampled_from(["0", "3600", '"5"', "1.5", "-7", "true", "9" * 30]),
        "tenantid": st.sampled_from([f'"{TENANT}"', f'"{str(TENANT).upper()}"', '"acme"', "null"]),
    },
)
ORDINARY = {"id": '"e-1"', "source": '"s"', "type": '"api.call"'}
WITH_DATA = ORDINARY | {"data": '{"calls":1.50,"region":"eu"}'}


def as_json(members: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"


def outcome(taken: Any) -> object:
    """What a reader came to: the bytes and whether a meter counts it, or why it was refused."""
    try:
        found: Taken = taken()
    except RejectedError as rejected:
        return rejected.code
    return found.value, found.metered, found.said


@example(members=WITH_DATA)
@example(members=ORDINARY | {"data": '{"calls":NaN,"region":"eu"}'})
@given(members=MEMBERS)
def test_a_plain_event_is_published_as_any_other_is(members: dict[str, str]) -> None:
    try:
        (item,) = read_array(f"[{as_json(members)}]")
        sent = read_item(item)
        whole = exact_json.loads(as_json(members))
    except ValueError:
        return
    assert members != WITH_DATA or isinstance(sent, Plain)
    if isinstance(sent, Plain):
        slow = outcome(lambda: read_event(whole, ARRIVAL))
        assert outcome(lambda: read_plain(sent, ARRIVAL)) == slow


def as_read(members: dict[str, str]) -> object:
    value = as_json(members).encode("utf-8", "surrogatepass")
    record = Record(TOPIC, 0, 0, NOW.replace(microsecond=0), str(TENANT).encode(), value)
    try:
        return usage_record.read(record)
    except UndecodableError as error:
        return error.reason


TIMED = WITH_DATA | {"mode": '"test"', "time": text(format_time(NOW))}


@example(members=TIMED)
@example(members=TIMED | {"receivedat": text(format_time(NOW)), "clockoffset": "0"})
@given(members=MEMBERS)
def test_a_record_reads_the_same_by_the_contract(members: dict[str, str]) -> None:
    fast = as_read(members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage_event, "_DECODER", Refusing())
        slow = as_read(members)
    assert fast == slow


class Refusing:
    """A fast reader that takes nothing."""

    def decode(self, text: str) -> object:
        raise ValueError(text)


@given(NUMBERS, TEXTS)
def test_what_is_read_is_written_as_it_was(number: str, name: str) -> None:
    document = f'{{"b":[{number},null,true],{json.dumps(name)}:{{"z":1.0,"a":"é"}}}}'
    try:
        read = exact_json.loads(document)
        written = exact_json.dumps(read)
    except (ValueError, UnicodeEncodeError):
        return
    again = json.loads(written, parse_float=Decimal)
    assert again == json.loads(document, parse_float=Decimal)
    assert exact_json.dumps(exact_json.loads(written.decode())) == written


@given(st.lists(st.tuples(st.uuids(version=4), st.booleans()), unique_by=lambda each: each[0]))
def test_ids_that_differ_have_hashes_that_differ(ids: list[tuple[UUID, bool]]) -> None:
    texts = {str(each).upper() if upper else str(each) for each, upper in ids}
    texts |= {f"{each[:14]}7{each[15:]}" for each in texts}
    hashes = {hash_of_id(source, each) for each in texts for source in ("a", "b")}
    assert len(hashes) == 2 * len(texts)
    assert all(len(each) == 16 for each in hashes)


def test_ids_of_one_moment_lie_together() -> None:
    first, second = str(new_id()), str(new_id())
    earlier = "018f0000-0000-7000-8000-000000000000"
    hashes = [hash_of_id("s", each) for each in (earlier, first, second)]
    assert hashes[0] < min(hashes[1:])
    assert hashes[1][:5] == hashes[2][:5]
    assert hash_of_id("s", first) != hash_of_id("t", first)
