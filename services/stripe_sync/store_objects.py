"""SQL of the mirror: owners, objects, payments, balance transactions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx

Json = dict[str, Any]


@dataclass(frozen=True)
class Owner:
    """Whose object it is.

    Attributes:
        customer_id: our customer it concerns, if any.
    """

    tenant_id: UUID
    customer_id: UUID | None


async def find_owner(tx: Tx, account: str, mode: str, object_id: str) -> Owner | None:
    """Whose object this is, whoever asks."""
    found = await tx.fetchval("select find_owner($1, $2, $3)", account, mode, object_id)
    if found is None:
        return None
    customer_id = found["customer_id"]
    return Owner(UUID(found["tenant_id"]), UUID(customer_id) if customer_id else None)


async def claim(tx: Tx, account: str, object_id: str, customer_id: UUID | None) -> bool:
    """Give an object to the tenant in scope for ever; False where it has an owner already."""
    inserted = await tx.execute(
        """
        insert into object_owner (account, mode, object_id, tenant_id, customer_id)
        values ($1, $2, $3, $4, $5) on conflict do nothing
        """,
        account,
        tx.mode,
        object_id,
        tx.tenant_id,
        customer_id,
    )
    return inserted == 1


async def read_object(tx: Tx, account: str, kind: str, object_id: str) -> Row | None:
    """The mirrored object with what was last said of it."""
    return await tx.fetchrow(
        """
        select raw, fact, version, deleted from stripe_object where tenant_id = $1 and mode = $2
            and account = $3 and object_type = $4 and object_id = $5 for update
        """,
        tx.tenant_id,
        tx.mode,
        account,
        kind,
        object_id,
    )


async def write_object(
    tx: Tx,
    account: str,
    kind: str,
    object_id: str,
    *,
    raw: Json,
    fact: Json | None,
    version: int,
    deleted: bool,
    fetched_at: datetime,
) -> None:
    """Put the latest state of an object into the mirror."""
    await tx.execute(
        """
        insert into stripe_object (tenant_id, mode, account, object_type, object_id, raw, fact,
            version, deleted, fetched_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        on conflict (tenant_id, mode, account, object_type, object_id) do update set
            raw = excluded.raw, fact = excluded.fact, version = excluded.version,
            deleted = excluded.deleted, fetched_at = excluded.fetched_at
        """,
        tx.tenant_id,
        tx.mode,
        account,
        kind,
        object_id,
        raw,
        fact,
        version,
        deleted,
        fetched_at,
    )


async def has_live_subscription(tx: Tx, account: str, stripe_customer_id: str) -> bool:
    """Whether the mirror holds a subscription of this customer that is being billed."""
    return bool(
        await tx.fetchval(
            """
            select exists (select from stripe_object where tenant_id = $1 and mode = $2
                and account = $3 and object_type = 'subscription'
                and raw ->> 'customer' = $4
                and raw ->> 'status' in ('trialing', 'active', 'past_due', 'unpaid', 'paused'))
            """,
            tx.tenant_id,
            tx.mode,
            account,
            stripe_customer_id,
        )
    )


PAYMENT_COLUMNS = (
    "payment_id",
    "account",
    "collected_by",
    "customer_id",
    "stripe_customer_id",
    "stripe_charge_id",
    "stripe_payment_intent_id",
    "stripe_invoice_id",
    "stripe_payment_link_id",
    "status",
    "amount_minor",
    "refunded_minor",
    "currency",
    "failure_code",
    "receipt_number",
    "receipt_url",
    "receipt_email",
    "created_at",
    "paid_at",
)
_COLUMNS = ", ".join(PAYMENT_COLUMNS)


async def read_payment(tx: Tx, account: str, charge_id: str) -> Json | None:
    """The payment of a charge, locked."""
    row = await tx.fetchrow(
        f"select {_COLUMNS} from payment where tenant_id = $1 and mode = $2 and account = $3 "  # noqa: S608
        "and stripe_charge_id = $4 for update",
        tx.tenant_id,
        tx.mode,
        account,
        charge_id,
    )
    return dict(row) if row else None


async def write_payment(tx: Tx, payment: Json) -> None:
    """Insert or replace a payment."""
    values = ", ".join(f"${number}" for number in range(3, len(PAYMENT_COLUMNS) + 3))
    updates = ", ".join(f"{name} = excluded.{name}" for name in PAYMENT_COLUMNS[1:])
    await tx.execute(
        f"insert into payment (tenant_id, mode, {_COLUMNS}) values ($1, $2, {values}) "  # noqa: S608
        f"on conflict (tenant_id, mode, payment_id) do update set {updates}",
        tx.tenant_id,
        tx.mode,
        *(payment[name] for name in PAYMENT_COLUMNS),
    )


async def has_complete_payment(tx: Tx, account: str, charge_id: str) -> bool:
    """Whether a charge is mirrored as paid, with its balance transaction."""
    return bool(
        await tx.fetchval(
            """
            select exists (select from payment p where p.tenant_id = $1 and p.mode = $2
                and p.account = $3 and p.stripe_charge_id = $4 and p.paid_at is not null
                and exists (select from balance_transaction b where b.tenant_id = $1
                    and b.mode = $2 and b.account = $3 and b.source_id = $4))
            """,
            tx.tenant_id,
            tx.mode,
            account,
            charge_id,
        )
    )


async def list_payments(
    tx: Tx, mode: str, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[Row]:
    """Payments in view, newest first."""
    at, payment_id = after or (None, None)
    return await tx.fetch(
        f"""
        select tenant_id, mode, {_COLUMNS} from payment where mode = $1
          and ($2::timestamptz is null or (created_at, payment_id) < ($2, $3::uuid))
        order by created_at desc, payment_id desc limit $4
        """,  # noqa: S608 - constants only
        mode,
        at,
        payment_id,
        limit,
    )


async def find_payment(tx: Tx, mode: str, payment_id: UUID) -> Row | None:
    """One payment in view."""
    return await tx.fetchrow(
        f"select tenant_id, mode, {_COLUMNS} from payment where mode = $1 and payment_id = $2",  # noqa: S608
        mode,
        payment_id,
    )


async def insert_transaction(tx: Tx, account: str, transaction: Json, raw: Json) -> None:
    """Record a balance transaction; its claim has made sure that this happens once."""
    await tx.execute(
        """
        insert into balance_transaction (tenant_id, mode, account, stripe_balance_transaction_id,
            kind, source_id, amount_minor, fee_minor, net_minor, currency, created_at,
            available_at, raw)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        """,
        tx.tenant_id,
        tx.mode,
        account,
        transaction["stripe_balance_transaction_id"],
        transaction["kind"],
        transaction["source_id"],
        transaction["amount_minor"],
        transaction["fee_minor"],
        transaction["net_minor"],
        transaction["currency"],
        transaction["created_at"],
        transaction["available_at"],
        raw,
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
