"""Whose audit log tells what staff does in a book."""

from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import Book
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Cause, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import emit


async def tell_change(
    tx: Tx,
    book: Book,
    change: ConfigurationChanged,
    *,
    tenant_id: UUID | None = None,
    now: datetime,
    cause: Cause | None = None,
) -> Envelope[ConfigurationChanged]:
    """Tell of a change of a tenant's book, which a tenant reads of its own book alone.

    A tenant's members never read the book `platform`, and a change says source keys, bounds and
    reasons: it stands in the platform's audit log, where the object names the tenant.

    Args:
        tenant_id: which of the tenants in scope, where there are several.
    """
    if book == "tenant":
        return emit(tx, change, tenant_id=tenant_id, effective_at=now, cause=cause)
    named = change.model_copy(
        update={"object_id": f"{tenant_id or tx.tenant_id} {change.object_id}"}
    )
    scope = tx.scope
    await tx.enter(Scope((PLATFORM_TENANT_ID,), scope.mode))
    try:
        return emit(tx, named, effective_at=now, cause=cause)
    finally:
        await tx.enter(scope)
