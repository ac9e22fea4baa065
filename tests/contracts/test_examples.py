"""Every event type has examples; they parse for ever; every consumer takes every one of them."""

import importlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from libs.contracts.envelope import Envelope
from libs.contracts.stripe_sync import StripeStatement, statement_digest
from libs.contracts.tenants import TenantCreated
from libs.contracts.topics import EVENT_TYPES, TOPICS, topics_consumed_by
from libs.contracts.usage import UsageEvent
from libs.db.pool import Tx
from libs.messaging.records import EVENT_MODELS, decode
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.contracts.examples import USAGE, Example, examples, of_topics

ROOT = Path(__file__).resolve().parents[2]
CONSUMERS = sorted(path.parent.name for path in (ROOT / "services").glob("*/handlers.py"))
ALL = examples()
FAILURES = ("dead_letter", "parked_key", "parked_record", "consumer_stop")


def test_every_event_type_has_an_example() -> None:
    assert {example.kind for example in ALL} == {*EVENT_TYPES, UsageEvent.__name__}


def test_ids_are_unique_and_streams_have_no_holes() -> None:
    envelopes = [example.content for example in ALL if example.topic != USAGE]
    assert not [i for i, times in Counter(e["id"] for e in envelopes).items() if times > 1]
    streams: dict[Any, list[int]] = {}
    for example in ALL:
        if example.topic != USAGE:
            content = example.content
            stream = (content["tenant_id"], example.topic, content["source"])
            streams.setdefault(stream, []).append(content["stream_seq"])
    for numbers in streams.values():
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.name)
def test_an_example_parses(example: Example) -> None:
    if example.topic == USAGE:
        UsageEvent.model_validate_json(example.text)
        return
    event = decode(example.record())
    assert event is not None
    assert event.type == example.kind
    topic = next(topic for topic in TOPICS if topic.name == example.topic)
    assert event.source in topic.producers


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.name)
def test_an_example_says_nothing_that_is_lost(example: Example) -> None:
    """What the model leaves out is a misspelt or removed field; a newer sender's may be ignored."""
    model = UsageEvent if example.topic == USAGE else EVENT_MODELS[example.kind]
    kept = model.model_validate_json(example.text).model_dump(mode="json")
    assert set(example.content) <= set(kept)
    assert set(example.content["data"]) <= set(kept["data"])


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.name)
def test_an_example_with_more_fields_parses(example: Example) -> None:
    """Contracts grow: an older consumer passes over what it does not know."""
    content = example.content
    content["added_later"] = {"deep": [1]}
    model = UsageEvent if example.topic == USAGE else EVENT_MODELS[example.kind]
    if example.topic != USAGE:
        content["data"]["added_later"] = True
    model.model_validate(content)


def test_digests_of_statements_hold_for_ever() -> None:
    """A statement of before whose digest were reckoned otherwise now would count as contradictory."""
    (statement,) = [each for each in ALL if each.kind == StripeStatement.__name__]
    told = StripeStatement.model_validate(statement.content["data"])
    assert statement_digest(told.lines, told.payouts) == told.digest


async def failures_of(database: TestDatabase, service: str) -> list[str]:
    """What the service put aside, in words."""
    async with database.admin() as admin:
        found = []
        for table in FAILURES:
            for row in await admin.fetch(f"select * from {service}.{table}"):
                found.append(f"{table}: {row.get('reason')}: {row.get('detail')}")
    return found


@pytest.mark.parametrize("service", CONSUMERS)
@pytest.mark.parametrize("order", ["as_it_happened", "any_order"])
async def test_a_consumer_takes_every_example(
    service: str, order: str, database: TestDatabase, log: MemoryLog
) -> None:
    """No failure, no matter in which order the examples of different topics arrive."""
    handlers = importlib.import_module(f"services.{service}.handlers")
    batch_handlers = getattr(handlers, "BATCH_HANDLERS", {})
    given = of_topics(topics_consumed_by(service))
    async with database.open(service) as own:
        log.add(own, handlers.HANDLERS, batch_handlers=batch_handlers, parks=True)
        if order == "any_order":
            random.Random(service).shuffle(given)
        for example in given:
            log.append(
                example.topic,
                example.key.encode(),
                example.text.encode(),
                example.headers,
                at=example.at,
            )
            if order == "any_order":
                await log.settle()
        await log.settle()
    assert await failures_of(database, service) == []
    async with database.admin() as admin:
        taken = {row[0] for row in await admin.fetch(f"select event_id::text from {service}.inbox")}
    # What no handler takes leaves no row.
    handled = {kind.__name__ for kind in handlers.HANDLERS}
    wanted = {e.content["id"] for e in given if e.topic != USAGE and e.kind in handled}
    assert wanted
    assert wanted <= taken


async def test_a_consumer_that_cannot_take_an_example_is_found(
    database: TestDatabase, log: MemoryLog
) -> None:
    async def refuse(event: Envelope[TenantCreated], _tx: Tx) -> None:
        raise ValueError(f"{event.data.slug} is not welcome")

    async with database.open("billing") as own:
        log.add(own, {TenantCreated: refuse}, parks=True)
        for example in ALL:
            if example.kind == TenantCreated.__name__:
                key, value = example.key.encode(), example.text.encode()
                log.append(example.topic, key, value, example.headers)
        await log.settle()
    assert any("is not welcome" in failure for failure in await failures_of(database, "billing"))
