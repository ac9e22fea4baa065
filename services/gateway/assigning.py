"""Giving an event that belongs to nobody to a tenant, by hand."""

from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row
from libs.db.tenant import Scope
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.gateway import erasure, keeping, store


class NoSuchEventError(Exception):
    """There is no event of this id."""


class AssignedError(Exception):
    """The event is a tenant's already."""


class QuarantinedError(Exception):
    """The event is not what its signature stands for: nobody may have it."""


async def assign(
    database: Database, event_id: UUID, tenant_id: UUID, mode: Mode, actor: str
) -> Row:
    """Give an unassigned event to a tenant and publish it there, in one commit; the event's row.

    One of an account that nobody has, or has any more, is given too. Given to the same tenant again,
    nothing happens.

    Raises:
        NoSuchEventError, AssignedError, QuarantinedError.
    """
    async with database.transaction(Scope((PLATFORM_TENANT_ID, tenant_id), mode)) as tx:
        kept = await store.assign(tx, PLATFORM_TENANT_ID, tenant_id, event_id)
        await tx.enter(Scope((tenant_id,), mode))
        if kept is not None:
            kept = await erasure.after_moving(tx, kept)
            keeping.publish(tx, kept)
            emit(
                tx,
                ConfigurationChanged(
                    action="webhook_event.assigned",
                    actor=actor,
                    object_id=public_id("webhook_event", event_id),
                    before={"tenant_id": str(PLATFORM_TENANT_ID)},
                    after={"tenant_id": str(tenant_id), "stripe_event_id": kept.stripe_event_id},
                ),
            )
        row = await store.find_event(tx, mode, event_id)
    if row is not None and row["assignment"] == "operator":
        return row
    async with database.maintenance() as tx:
        row = await store.find_event(tx, mode, event_id)
    if row is None:
        raise NoSuchEventError
    raise QuarantinedError if row["quarantine_reason"] is not None else AssignedError
