"""Hostile records straight on the topics: put aside with their bytes, and everybody else flows.

The topics keep them; `tests/flows/conftest.py` has this module run after those that replay.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer

from cli import proof
from cli.api import Api, eventually
from cli.status import read_status
from deploy.local.stack import Stack
from libs.clock import format_time, utc_now
from libs.contracts.topics import TOPICS, Topic
from libs.ids import new_id
from tests.flows.test_isolation import SCOPES
from tests.nothing_waits import everything_is_ready

pytestmark = pytest.mark.flow

ALMOST_A_MEGABYTE = 900 * 1024
GOOD_EVENTS = 50


@dataclass(frozen=True)
class Sent:
    """A hostile record as it lies on its topic."""

    what: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Aftermath:
    """What was sent, by what, and how many usage events of a good tenant flowed meanwhile."""

    stack: Stack
    sent: Sequence[Sent]
    letters: Sequence[Any]
    restarts: Mapping[str, int]
    counted: bool


def envelope(tenant_id: str, kind: str, data: Any) -> bytes:
    """An event as our services write them."""
    now = format_time(utc_now())
    members = {
        "id": str(new_id()),
        "tenant_id": tenant_id,
        "mode": "test",
        "type": kind,
        "occurred_at": now,
        "effective_at": now,
        "source": "attack",
        "correlation_id": str(new_id()),
        "data": data,
    }
    return json.dumps(members).encode()


def usage(**members: Any) -> bytes:
    """A CloudEvent as product services write them."""
    event = {
        "specversion": "1.0",
        "id": str(new_id()),
        "source": "attack",
        "type": "attack.hostile",
        "time": format_time(utc_now() - timedelta(seconds=5)),
        "mode": "test",
        "data": {"n": 1},
    }
    return json.dumps(event | members).encode()


Record = tuple[str, bytes | None, bytes | None, list[tuple[str, bytes]]]


def hostile_records(topic: Topic, tenant_id: str) -> list[Record]:
    """What is sent to one topic: a name, key, value and headers."""
    key = tenant_id.encode()
    foreign = str(UUID(int=7))
    kind = topic.events[0].__name__ if topic.events else "x"
    header = [("type", kind.encode())]
    good = envelope(tenant_id, kind, {})
    # Of a compacted topic the broker itself refuses a record without a key.
    keyless: list[Record] = [("no key", None, good, header)]
    records: list[Record] = [
        *(keyless if topic.cleanup == "delete" else []),
        ("a key that is no tenant", b"acme", good, header),
        ("a key in capitals", tenant_id.upper().encode() + b" ", good, header),
        ("a key that is not UTF-8", b"\xff\xfe", good, header),
        ("garbage", key, b"\x00\xff\x80garbage", header),
        ("not JSON", key, b'{"id":', header),
        ("a list", key, b"[]", header),
        ("deep", key, b"[" * 100_000, header),
        ("a tombstone", key, None, header),
        ("900 kB", key, b'{"x": "' + b"x" * ALMOST_A_MEGABYTE + b'"}', header),
    ]
    if topic.events:
        return [
            *records,
            ("another tenant in the value", key, envelope(foreign, kind, {}), header),
            ("data that is none", key, envelope(tenant_id, kind, []), header),
            ("headers that are not UTF-8", key, good, [("type", b"\xff\xfe"), ("x", b"\x80")]),
        ]
    return [
        *records,
        ("another tenant in the value", key, usage(tenantid=foreign), []),
        ("a time of the far future", key, usage(time="9999-12-31T23:59:59-23:59"), []),
        ("a time that is a number", key, usage(time=1), []),
        ("a time before any", key, usage(time="0001-01-01T00:00:00+23:59"), []),
        ("received long ago", key, usage(receivedat="2020-01-01T00:00:00Z"), []),
        ("a clock out of range", key, usage(clockoffset=10**30), []),
        ("half a character", key, usage(userid="\ud800"), []),
        ("half a character in the data", key, usage(data={"n": "\ud800"}), []),
        ("a NUL", key, usage(subject="\x00"), []),
        ("no number", key, usage(data={"n": float("nan")}), []),
        ("no mode", key, usage(mode=None), []),
        ("another specification", key, usage(specversion="9"), []),
    ]


UNKNOWN_TYPE: Record = ("a type nobody knows", None, b"{}", [("type", b"FromTheFuture")])
"""Passed over: contracts grow, and older consumers must live with it."""


@pytest.fixture(scope="module")
async def aftermath(stack: Stack) -> AsyncGenerator[Aftermath, None]:
    """Every hostile record sent, good usage sent meanwhile, and everything at rest again."""
    environment = stack.environment()
    operator = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    victim = await operator.post("/api/v1/tenants", {"name": "Victim"})
    body = {"tenant": victim["id"], "name": "good", "scopes": SCOPES, "mode": "test"}
    good = Api(environment["SLUICE_ORIGIN"], (await operator.post("/api/v1/api-keys", body))["key"])
    good.read_after(operator.version)
    meter = {"key": "good", "event_type": "good", "aggregation": "count"}
    await good.post("/api/v1/meters", meter)
    await proof.settle(environment)

    known = {letter["id"] for letter in await letters_of(environment)}
    restarts = restarts_of(stack)
    try:
        sent = await send_all(environment["SLUICE_KAFKA"], victim["id"])
        counted = await usage_flows(good)
        await proof.settle(environment)
        letters = [each for each in await letters_of(environment) if each["id"] not in known]
        yield Aftermath(stack, sent, letters, restarts, counted)
    finally:
        await good.close()
        await operator.close()
        await forget_all_but(environment, known)


async def usage_flows(good: Api) -> bool:
    """Whether good usage of the very tenant whose key the hostile records bear is counted."""
    event = {"specversion": "1.0", "source": "good", "type": "good", "data": {}}
    events = [{**event, "id": str(number)} for number in range(GOOD_EVENTS)]
    answer = await good.post("/api/v1/events", events)
    assert all(each["status"] == "accepted" for each in answer["results"])

    async def counted() -> bool:
        now = utc_now()
        span = {"from": format_time(now - timedelta(hours=1)), "to": format_time(now)}
        rows = (await good.get("/api/v1/meters/good/query", **span))["rows"]
        return sum(int(row["value"]) for row in rows) == GOOD_EVENTS

    return await eventually("the good usage's count", counted)


async def send_all(bootstrap: str, tenant_id: str) -> list[Sent]:
    """Write every hostile record to its topic."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=1024 * 1024)
    await producer.start()
    try:
        sent = []
        for topic in TOPICS:
            unknown = [(UNKNOWN_TYPE[0], tenant_id.encode(), *UNKNOWN_TYPE[2:])]
            for what, key, value, headers in [
                *hostile_records(topic, tenant_id),
                *(unknown if topic.events else []),
            ]:
                where = await producer.send_and_wait(
                    topic.name, key=key, value=value, headers=headers, partition=3
                )
                sent.append(Sent(what, topic.name, where.partition, where.offset, key, value))
        return sent
    finally:
        await producer.stop()


async def letters_of(environment: Any) -> list[Any]:
    """All dead letters of all services, with the schema they lie in."""
    admin = await proof.connect(environment)
    try:
        found = []
        for schema in await proof.schemas(admin):
            found += await admin.fetch(f"select '{schema}' as schema, * from {schema}.dead_letter")
        return found
    finally:
        await admin.close()


async def forget_all_but(environment: Any, known: set[UUID]) -> None:
    """Delete the new dead letters, so that the stack's figures are those of before."""
    admin = await proof.connect(environment)
    try:
        for schema in await proof.schemas(admin):
            statement = f"delete from {schema}.dead_letter where not id = any($1::uuid[])"
            await admin.execute(statement, list(known))
    finally:
        await admin.close()


async def test_every_service_stays_ready(aftermath: Aftermath) -> None:
    await everything_is_ready(aftermath.stack)
    # And it is the same process as before: none has ended and come back.
    assert restarts_of(aftermath.stack) == aftermath.restarts


def restarts_of(stack: Stack) -> dict[str, int]:
    """How often each program was started again."""
    state = stack.state()
    assert state is not None
    return {program.name: program.restarts for program in state.programs}


async def test_the_usage_of_others_flows(aftermath: Aftermath) -> None:
    assert aftermath.counted


async def test_nothing_is_parked(aftermath: Aftermath) -> None:
    assert (await read_status(aftermath.stack)).parked == 0


async def test_each_record_is_a_dead_letter_of_each_reader_with_its_bytes(
    aftermath: Aftermath,
) -> None:
    readers = {topic.name: set(topic.consumers) for topic in TOPICS}
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for letter in aftermath.letters:
        place = (letter["topic"], letter["partition"], letter["record_offset"])
        found.setdefault(place, {})[letter["schema"]] = letter
    for sent in aftermath.sent:
        buried = found.pop((sent.topic, sent.partition, sent.offset), {})
        if sent.what == UNKNOWN_TYPE[0]:
            assert buried == {}, sent
            continue
        assert buried.keys() == readers[sent.topic], (sent.what, sent.topic, buried.keys())
        for letter in buried.values():
            assert (letter["key"], letter["value"]) == (sent.key, sent.value), sent.what
            assert letter["reason"], sent.what
    assert found == {}
