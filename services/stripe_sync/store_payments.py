"""SQL of payments."""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx

Json = dict[str, Any]

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
    "origin_known",
    "status",
    "amount_minor",
    "refunded_minor",
    "currency",
    "disputed",
    "failure_code",
    "confirmation_url",
    "description",
    "receipt_number",
    "receipt_url",
    "receipt_email",
    "created_at",
    "paid_at",
    "told",
)
_COLUMNS = ", ".join(PAYMENT_COLUMNS)
_UPDATES = ", ".join(f"{name} = excluded.{name}" for name in PAYMENT_COLUMNS[1:])
_QUALIFIED = ", ".join(f"p.{name}" for name in PAYMENT_COLUMNS)
_WRITE = f"""
    insert into payment (tenant_id, mode, {_COLUMNS})
    select tenant_id, $1, {_COLUMNS} from jsonb_populate_recordset(null::payment, $2::text::jsonb)
    order by tenant_id, payment_id
    on conflict (tenant_id, mode, payment_id) do update set {_UPDATES}
"""  # noqa: S608 - constants only


async def read_payment(
    tx: Tx, account: str, stripe_id: str, payment_id: UUID | None = None
) -> Json | None:
    """The payment of an intent, or of a charge without one, locked.

    Args:
        stripe_id: of the intent, or of the charge.
        payment_id: the payment that the intent names: it is the one where no intent has taken it.
    """
    row = await tx.fetchrow(
        f"""
        select {_COLUMNS} from payment where tenant_id = $1 and mode = $2 and account = $3
            and (coalesce(stripe_payment_intent_id, stripe_charge_id) = $4
                or (payment_id = $5 and stripe_payment_intent_id is null
                    and stripe_charge_id is null))
        order by coalesce(stripe_payment_intent_id, stripe_charge_id) = $4 desc nulls last
        limit 1 for update
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        tx.mode,
        account,
        stripe_id,
        payment_id,
    )
    return dict(row) if row else None


async def write_payment(tx: Tx, payment: Json) -> None:
    """Insert or replace a payment of the tenant in scope."""
    await write_payments(tx, [(tx.tenant_id, payment)])


async def read_payments(
    tx: Tx, account: str, stripe_ids: Sequence[tuple[UUID, str]]
) -> dict[str, Json]:
    """The payments of intents, or of charges without one, locked; by that id.

    Args:
        stripe_ids: (tenant, id); the tenants are in scope.
    """
    rows = await tx.fetch(
        f"""
        select {_QUALIFIED}, k.stripe_id
        from unnest($3::uuid[], $4::text[]) as k(tenant_id, stripe_id)
        join payment p on p.tenant_id = k.tenant_id and p.mode = $1 and p.account = $2
            and coalesce(p.stripe_payment_intent_id, p.stripe_charge_id) = k.stripe_id
        order by p.payment_id for update of p
        """,  # noqa: S608 - constants only
        tx.mode,
        account,
        [tenant_id for tenant_id, _ in stripe_ids],
        [stripe_id for _, stripe_id in stripe_ids],
    )
    return {row["stripe_id"]: _payment(row) for row in rows}


async def read_unanswered(
    tx: Tx, account: str, payment_ids: Sequence[tuple[UUID, UUID]]
) -> dict[UUID, Json]:
    """Those of these payments that belong to no intent and no charge yet, locked.

    Args:
        payment_ids: (tenant, payment); the tenants are in scope.
    """
    rows = await tx.fetch(
        f"""
        select {_QUALIFIED}
        from unnest($3::uuid[], $4::uuid[]) as k(tenant_id, payment_id)
        join payment p on p.tenant_id = k.tenant_id and p.mode = $1 and p.account = $2
            and p.payment_id = k.payment_id
        where p.stripe_payment_intent_id is null and p.stripe_charge_id is null
        order by p.payment_id for update of p
        """,  # noqa: S608 - constants only
        tx.mode,
        account,
        [tenant_id for tenant_id, _ in payment_ids],
        [payment_id for _, payment_id in payment_ids],
    )
    return {row["payment_id"]: _payment(row) for row in rows}


def _payment(row: Row) -> Json:
    return {name: row[name] for name in PAYMENT_COLUMNS}


async def write_payments(tx: Tx, payments: Iterable[tuple[UUID, Json]]) -> None:
    """Insert or replace payments of tenants in scope: (tenant, columns)."""
    rows = [payment | {"tenant_id": tenant_id} for tenant_id, payment in payments]
    await tx.execute(_WRITE, tx.mode, json.dumps(rows, default=str))


async def known_origins(
    tx: Tx, account: str, intents: Sequence[tuple[UUID, str]]
) -> dict[str, Row]:
    """Which of these intents' payments have their origin looked up; by intent id.

    Args:
        intents: (tenant, intent); the tenants are in scope.
    """
    rows = await tx.fetch(
        """
        select p.stripe_payment_intent_id, p.stripe_invoice_id, p.stripe_payment_link_id
        from unnest($3::uuid[], $4::text[]) as k(tenant_id, intent_id)
        join payment p on p.tenant_id = k.tenant_id and p.mode = $1 and p.account = $2
            and coalesce(p.stripe_payment_intent_id, p.stripe_charge_id) = k.intent_id
        where p.origin_known
        """,
        tx.mode,
        account,
        [tenant_id for tenant_id, _ in intents],
        [intent_id for _, intent_id in intents],
    )
    return {row["stripe_payment_intent_id"]: row for row in rows}


async def unsettled_payments(
    tx: Tx, account: str, payments: Sequence[tuple[UUID, str, str | None]]
) -> set[str]:
    """Those of these payments that are not mirrored as far as they go.

    A charge has come to its end where it failed, or was paid and booked; a payment without a charge
    is as good as mirrored where there is a row of it.

    Args:
        payments: (tenant, intent, or charge without one, latest charge); the tenants are in scope.
    """
    rows = await tx.fetch(
        """
        select k.payment_id
        from unnest($3::uuid[], $4::text[], $5::text[]) as k(tenant_id, payment_id, charge_id)
        where not exists (select from payment p where p.tenant_id = k.tenant_id and p.mode = $1
                and p.account = $2
                and coalesce(p.stripe_payment_intent_id, p.stripe_charge_id) = k.payment_id
                and (k.charge_id is null or (p.stripe_charge_id = k.charge_id
                    and p.paid_at is not null
                    and exists (select from balance_transaction b where b.tenant_id = k.tenant_id
                        and b.mode = $1 and b.account = $2 and b.source_id = k.charge_id))))
            and not exists (select from stripe_object o where o.tenant_id = k.tenant_id
                and o.mode = $1 and o.account = $2 and o.object_type = 'charge'
                and o.object_id = k.charge_id and o.raw ->> 'status' = 'failed')
        """,
        tx.mode,
        account,
        [tenant_id for tenant_id, _, _ in payments],
        [payment_id for _, payment_id, _ in payments],
        [charge_id for _, _, charge_id in payments],
    )
    return {row["payment_id"] for row in rows}


async def find_payment(tx: Tx, mode: str, payment_id: UUID) -> Row | None:
    """One payment in view."""
    return await tx.fetchrow(
        f"select tenant_id, mode, {_COLUMNS} from payment where mode = $1 and payment_id = $2",  # noqa: S608
        mode,
        payment_id,
    )
