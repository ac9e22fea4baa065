"""Draining: the queue of a released key is applied in order, in the partition's own consumer."""

from collections.abc import Collection

import structlog
from aiokafka import TopicPartition

from libs.db.pool import Database, Tx
from libs.db.tenant import NOBODY
from libs.messaging.apply import RETRIED, Applier
from libs.messaging.fence import load_fences
from libs.messaging.parked import (
    Released,
    as_maintenance,
    leave_queue,
    next_parked,
    released_keys,
    unrelease,
)

log = structlog.get_logger()

DRAIN_RECORDS = 100


async def drain_released(
    database: Database, applier: Applier, places: Collection[TopicPartition]
) -> None:
    """Drain every released key of these partitions."""
    async with database.maintenance() as tx:
        released = await released_keys(tx, applier.name, places)
    for each in released:
        await _drain_key(database, applier, each)


async def _drain_key(database: Database, applier: Applier, released: Released) -> None:
    """Drain one key, a bounded piece per transaction; a record that fails again keeps it parked."""
    freed, topic = False, released.place.topic
    while not freed:
        try:
            async with database.transaction() as tx:
                freed = await _drain_piece(tx, applier, released.place, released.key)
        except RETRIED:
            raise
        except Exception as error:  # noqa: BLE001 - a parked event may fail in any way again
            detail = f"{type(error).__name__}: {error}"
            log.warning(
                "parked_key_failed_again", consumer=applier.name, topic=topic, error=detail[:500]
            )
            await unrelease(database, applier.name, released, detail)
            return
    log.info("parked_key_freed", consumer=applier.name, topic=topic)


async def _drain_piece(tx: Tx, applier: Applier, place: TopicPartition, key: str) -> bool:
    """Apply one piece under the fence; True when the queue is empty and the key free.

    Under the fence no consumer can queue a record behind a key that is just being freed, and no
    operator discards one that is just being tried.
    """
    await load_fences(tx, applier.name, [place], lock=True)
    async with as_maintenance(tx):
        queue = await next_parked(tx, applier.name, place.topic, key, DRAIN_RECORDS)
    for _, record in queue:
        await applier.apply_parked(tx, record)
    await tx.enter(NOBODY)
    async with as_maintenance(tx):
        return await leave_queue(
            tx, applier.name, place.topic, key, [queue_id for queue_id, _ in queue]
        )
