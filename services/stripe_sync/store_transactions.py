"""SQL of balance transactions, and how far they have been listed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
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
_COLUMNS = ", ".join(TRANSACTION_COLUMNS)
_INSERT = f"""
    insert into balance_transaction (tenant_id, mode, account, {_COLUMNS}, raw, told)
    select tenant_id, $1, $2, {_COLUMNS}, raw, told
    from jsonb_populate_recordset(null::balance_transaction, $3::text::jsonb)
"""  # noqa: S608 - constants only


@dataclass(frozen=True)
class Listing:
    """A reading of an account's list, newest first, over one run or several.

    Attributes:
        cursor: up to when everything was listed before.
        listed_to: up to when everything is listed once the end is reached.
        read_to: the transaction below which the next run reads on; None: from the top.
    """

    cursor: datetime
    listed_to: datetime
    read_to: str | None


async def insert_transactions(
    tx: Tx, account: str, transactions: Sequence[tuple[UUID, Json, Json]]
) -> None:
    """Record balance transactions; their claims have made sure that this happens once.

    Args:
        transactions: (tenant, what is told of it, Stripe's JSON); the tenants are in scope.
    """
    if not transactions:
        return
    await tx.execute(
        _INSERT,
        tx.mode,
        account,
        json.dumps(
            [
                told | {"tenant_id": tenant, "raw": raw, "told": told}
                for tenant, told, raw in transactions
            ],
            default=str,
        ),
    )


async def read_listing(
    tx: Tx, account: str, mode: str, *, first: datetime, now: datetime
) -> Listing:
    """The listing under way, else a new one that reaches up to now.

    Args:
        first: the cursor of an account that has none.
    """
    await tx.execute(
        "insert into transaction_cursor (account, mode, listed_to) values ($1, $2, $3) "
        "on conflict do nothing",
        account,
        mode,
        first,
    )
    row = await tx.fetchrow(
        "select listed_to, pending_listed_to, pending_read_to from transaction_cursor "
        "where account = $1 and mode = $2",
        account,
        mode,
    )
    assert row is not None, "it was entered above"
    if row["pending_read_to"] is None:
        return Listing(row["listed_to"], now, None)
    return Listing(row["listed_to"], row["pending_listed_to"], row["pending_read_to"])


async def pause_listing(tx: Tx, account: str, mode: str, listed_to: datetime, read_to: str) -> None:
    """Remember how far down a list was read, and up to when it will have been listed."""
    await tx.execute(
        "update transaction_cursor set pending_listed_to = $3, pending_read_to = $4 "
        "where account = $1 and mode = $2",
        account,
        mode,
        listed_to,
        read_to,
    )


async def drop_listing(tx: Tx, account: str, mode: str) -> None:
    """Have the list read from its top again."""
    await tx.execute(
        "update transaction_cursor set pending_listed_to = null, pending_read_to = null "
        "where account = $1 and mode = $2",
        account,
        mode,
    )


async def move_cursor(tx: Tx, account: str, mode: str, listed_to: datetime) -> None:
    """Remember up to when balance transactions have been listed; never back."""
    await tx.execute(
        "update transaction_cursor set listed_to = greatest(listed_to, $3), "
        "pending_listed_to = null, pending_read_to = null where account = $1 and mode = $2",
        account,
        mode,
        listed_to,
    )
