"""SQL of balance transactions, and how far they have been listed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Tx

Json = dict[str, Any]

TRANSACTION_COLUMNS = (
    "stripe_balance_transaction_id",
    "kind",
    "source_id",
    "amount_minor",
    "fee_minor",
    "net_minor",
    "currency",
    "created_at",
    "available_at",
)


async def insert_transactions(
    tx: Tx, account: str, transactions: Sequence[tuple[UUID, Json, Json]]
) -> None:
    """Record balance transactions; their claims have made sure that this happens once.

    Args:
        transactions: (tenant, columns, Stripe's JSON); the tenants are in scope.
    """
    await tx.executemany(
        """
        insert into balance_transaction (tenant_id, mode, account, stripe_balance_transaction_id,
            kind, source_id, amount_minor, fee_minor, net_minor, currency, created_at,
            available_at, raw)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        """,
        [
            (
                tenant_id,
                tx.mode,
                account,
                *(columns[name] for name in TRANSACTION_COLUMNS),
                raw,
            )
            for tenant_id, columns, raw in transactions
        ],
    )


async def read_cursor(tx: Tx, account: str, mode: str) -> datetime | None:
    """Up to when balance transactions have been listed."""
    found: datetime | None = await tx.fetchval(
        "select listed_to from transaction_cursor where account = $1 and mode = $2", account, mode
    )
    return found


async def move_cursor(tx: Tx, account: str, mode: str, listed_to: datetime) -> None:
    """Remember how far balance transactions have been listed; never back."""
    await tx.execute(
        """
        insert into transaction_cursor as c (account, mode, listed_to) values ($1, $2, $3)
        on conflict (account, mode) do update set listed_to = excluded.listed_to
        where c.listed_to < excluded.listed_to
        """,
        account,
        mode,
        listed_to,
    )
