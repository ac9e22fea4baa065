"""What an operator does about records that wait and consumers that stand still.

Each is done and told to the audit log in one transaction: by whom, to what, and why.
"""

from dataclasses import dataclass
from uuid import UUID

from aiokafka import TopicPartition

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from libs.messaging import parked, stops
from libs.messaging.dead_letter import DeadLetter, bury
from libs.messaging.fence import load_fences
from libs.messaging.outbox import emit
from libs.messaging.records import Record

DISCARDED = "discarded"
"""The reason of a dead letter that an operator made."""


class AnotherFirstError(LookupError):
    """Another record is first in the queue than the one the operator looked at."""


@dataclass(frozen=True)
class Act:
    """Who acts, and why; both stand in the audit log for ever."""

    actor: str
    why: str


async def release_key(database: Database, consumer: str, topic: str, key: str, act: Act) -> bool:
    """Have a parked key tried again by its consumer; False when it is not parked."""
    async with database.transaction() as tx:
        if not await parked.mark_released(tx, consumer, topic, key):
            return False
        await _tell(tx, UUID(key), "parked_key.released", f"{consumer} {topic}", act)
        return True


async def discard_first(
    database: Database, consumer: str, topic: str, key: str, shown: Record, act: Act
) -> Record | None:
    """Put the first record of a parked key among the dead letters, and have the others tried again.

    Under the fence nobody tries or queues a record of the partition meanwhile. The record has no inbox
    row: produced again, it is applied.

    Args:
        shown: the one the operator looked at; no other is discarded.

    Returns:
        The record; None when the key is not parked (any more).

    Raises:
        AnotherFirstError: the one shown was applied or discarded meanwhile; nothing was changed.
    """
    async with database.transaction() as tx:
        partition = await tx.fetchval(
            "select partition from parked_key where consumer = $1 and topic = $2 and key = $3",
            consumer,
            topic,
            key,
        )
        if partition is None:
            return None
        await load_fences(tx, consumer, [TopicPartition(topic, partition)], lock=True)
        async with parked.as_maintenance(tx):
            first = await parked.next_parked(tx, consumer, topic, key, 1)
            if not first:
                return None
            ((queue_id, record),) = first
            if (record.partition, record.offset) != (shown.partition, shown.offset):
                raise AnotherFirstError(f"{topic}[{record.partition}] {record.offset}")
            freed = await parked.leave_queue(tx, consumer, topic, key, [queue_id])
        await bury(tx, consumer, [DeadLetter(record, DISCARDED, f"{act.actor}: {act.why}")])
        if not freed:
            await parked.mark_released(tx, consumer, topic, key)
        place = f"{consumer} {topic}[{record.partition}] {record.offset}"
        await _tell(tx, UUID(key), "parked_record.discarded", place, act)
        return record


async def lift_stop(database: Database, consumer: str, act: Act) -> bool:
    """Let a consumer that stopped itself go on; False when it was not stopped."""
    async with database.transaction() as tx:
        if not await stops.forget(tx, consumer):
            return False
        await _tell(tx, PLATFORM_TENANT_ID, "consumer_stop.lifted", consumer, act)
        return True


async def _tell(tx: Tx, tenant_id: UUID, action: str, object_id: str, act: Act) -> None:
    """Tell the tenant's audit log."""
    await tx.enter(Scope((tenant_id,), None))
    changed = ConfigurationChanged(
        action=action, actor=act.actor, object_id=object_id, after={"why": act.why}
    )
    emit(tx, changed)
