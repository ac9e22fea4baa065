"""Tenants' own Stripe accounts: noticing what the directory says of them, and that one is gone."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.contracts.envelope import Envelope
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_accounts import StripeAccountDeauthorized
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import ConnectionRecord
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import emit
from services.stripe_sync import store_connections, store_marks, store_walks
from services.stripe_sync.identities import CALLABLE_STATUSES

DEAUTHORIZED = "account.application.deauthorized"
LOOK_BACK = timedelta(seconds=60)
"""A record's time is that of its transaction's start, which may commit after later ones."""
BATCH_TENANTS = 100
WHAT_COUNTS = {
    *("connection_id", "kind", "status", "is_active"),
    *("account_id", "credential_version", "key_valid"),
}
"""Of a connection; a change of its health alone calls for nothing, for that is what was fetched."""


async def take_deauthorization(tx: Tx, event: Envelope[StripeEventReceived]) -> None:
    """A tenant disconnected us at Stripe: tell it once; there is nothing to fetch any more."""
    fact = event.data
    if fact.account == PLATFORM_ACCOUNT:
        return
    if await store_connections.note_deauthorized(
        tx, fact.account, fact.stripe_event_id, fact.created_at
    ):
        emit(
            tx,
            StripeAccountDeauthorized(
                account=fact.account,
                stripe_event_id=fact.stripe_event_id,
                deauthorized_at=fact.created_at,
            ),
            effective_at=event.effective_at,
        )
        await store_marks.drop(tx, fact.account)


@dataclass
class ConnectionWatch:
    """Has the health of an account fetched when its connection appears or changes.

    So nobody waits for a webhook, and what could not be fetched before is tried again. Of an account
    that was another tenant's before, the lists are read afresh: how far they were read was the other
    one's.
    """

    database: Database
    _since: datetime = field(default=datetime.min.replace(tzinfo=UTC))

    async def run_once(self) -> None:
        """Look at the records that changed."""
        async with self.database.maintenance() as tx:
            rows = await store_connections.changed_tenants(tx, self._since, BATCH_TENANTS)
        for row in rows:
            await self._see(row)
        if rows:
            self._since = rows[-1]["applied_at"] - LOOK_BACK

    async def _see(self, row: Row) -> None:
        connections = [ConnectionRecord.model_validate(raw) for raw in row["connections"]]
        async with self.database.maintenance() as tx:
            moved = {
                (each.account_id, each.mode)
                for each in connections
                if each.account_id is not None
                and await store_connections.was_anothers(
                    tx, each.account_id, each.mode, row["tenant_id"]
                )
            }
        async with self.database.transaction() as tx:
            for connection in connections:
                await tx.enter(Scope((row["tenant_id"],), connection.mode))
                state: dict[str, Any] = connection.model_dump(mode="json", include=WHAT_COUNTS)
                before = await store_connections.see(tx, row["version"], state)
                account = connection.account_id
                if account is None or before == state:
                    continue
                if (account, connection.mode) in moved and (before or {}).get(
                    "account_id"
                ) != account:
                    await store_walks.forget(tx, account)
                if not is_callable(connection):
                    continue
                await store_connections.forget_what_was_said(tx, account)
                await store_marks.wake(tx, account)
                await store_marks.mark(tx, account, [("account", account)])


def is_callable(connection: ConnectionRecord) -> bool:
    """Whether the account of a connection may be called."""
    return connection.is_active and connection.status in CALLABLE_STATUSES
