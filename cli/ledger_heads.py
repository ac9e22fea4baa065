"""Heads of the books' chains as they were told: on `ledger.events`, where the ledger cannot change them."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition

from libs.contracts.envelope import Mode
from libs.contracts.ledger import Book, LedgerHeadAnchored
from libs.contracts.topics import PARTITIONS, TOPIC_OF
from libs.messaging.records import UndecodableError, decode

TOPIC = TOPIC_OF[LedgerHeadAnchored].name
POLL_MS = 1_000

Heads = Mapping[tuple[UUID, Mode, Book], Mapping[int, frozenset[str]]]
"""Hashes (hex) that told heads give for the numbers of a book's chain."""


async def read_heads(kafka: str, progress: Callable[[int, int], None]) -> Heads:
    """Every head that stands on `ledger.events` now."""
    heads: dict[tuple[UUID, Mode, Book], dict[int, frozenset[str]]] = defaultdict(dict)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async for message in _messages(consumer, progress):
            try:
                event = decode(message)
            except UndecodableError:
                continue
            if event is None or not isinstance(event.data, LedgerHeadAnchored) or not event.mode:
                continue
            of_book = heads[event.tenant_id, event.mode, event.data.book]
            seq = event.data.chain_seq
            of_book[seq] = of_book.get(seq, frozenset()) | {event.data.chain_hash}
    finally:
        await consumer.stop()
    return heads


async def _messages(
    consumer: Any, progress: Callable[[int, int], None]
) -> AsyncGenerator[Any, None]:
    """Every record that stands on the topic now."""
    places = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
    consumer.assign(places)
    starts = await consumer.beginning_offsets(places)
    ends = await consumer.end_offsets(places)
    await consumer.seek_to_beginning(*places)
    open_places = {place for place in places if starts[place] < ends[place]}
    total, done = sum(ends[place] - starts[place] for place in places), 0
    while open_places:
        batches = await consumer.getmany(*open_places, timeout_ms=POLL_MS)
        for place, messages in batches.items():
            for message in messages:
                if message.offset < ends[place]:
                    yield message
            done += len(messages)
            progress(min(done, total), total)
        for place in list(open_places):
            if await consumer.position(place) >= ends[place]:
                open_places.discard(place)
    progress(total, total)
