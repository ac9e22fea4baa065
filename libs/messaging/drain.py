"""Draining: the queue of a released key is applied in order, in the partition's own consumer."""

from collections.abc import Collection

import structlog
from aiokafka import TopicPartition

from libs.db.pool import Database, Tx
from libs.db.tenant import NOBODY
from libs.messaging.apply import RETRIED, Applier
from libs.messaging.fence import load_fences
from libs.messaging.parked import leave_queue, next_parked, released_keys, unrelease
from libs.messaging.records import Record

log = structlog.get_logger()

DRAIN_RECORDS = 100


async def drain_released(
    database: Database, applier: Applier, places: Collection[TopicPartition]
) -> None:
    """Drain every released key of these partitions."""
    async with database.maintenance() as tx:
        mine = [(place.topic, place.partition) for place in places]
        released = await released_keys(tx, applier.name, mine)
    for topic, key in released:
        await _drain_key(database, applier, topic, key)


async def _drain_key(database: Database, applier: Applier, topic: str, key: str) -> None:
    """Drain one key, a bounded piece per transaction; a record that fails again keeps it parked."""
    freed = False
    while not freed:
        async with database.maintenance() as tx:
            queue = await next_parked(tx, applier.name, topic, key, DRAIN_RECORDS)
        try:
            async with database.transaction() as tx:
                freed = await _drain_piece(tx, applier, topic, key, queue)
        except RETRIED:
            raise
        except Exception as error:  # noqa: BLE001 - a parked event may fail in any way again
            detail = f"{type(error).__name__}: {error}"
            log.warning(
                "parked_key_failed_again", consumer=applier.name, topic=topic, error=detail[:500]
            )
            await unrelease(database, applier.name, topic, key, detail)
            return
    log.info("parked_key_freed", consumer=applier.name, topic=topic)


async def _drain_piece(
    tx: Tx, applier: Applier, topic: str, key: str, queue: list[tuple[int, Record]]
) -> bool:
    """Apply one piece under the fence; True when the queue is empty and the key free."""
    if queue:
        place = TopicPartition(topic, queue[0][1].partition)
        await load_fences(tx, applier.name, [place], lock=True)
    for _, record in queue:
        await applier.apply_parked(tx, record)
    await tx.enter(NOBODY)
    await tx.execute(f"set local role sluice_{tx.service}_maintenance")
    freed = await leave_queue(tx, applier.name, topic, key, [queue_id for queue_id, _ in queue])
    await tx.execute("set local role none")
    return freed
