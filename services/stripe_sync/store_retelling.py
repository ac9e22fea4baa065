"""SQL of money facts that are told again."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from services.stripe_sync.store_payments import PAYMENT_COLUMNS
from services.stripe_sync.store_transactions import TRANSACTION_COLUMNS

_TRANSACTION = ", ".join(TRANSACTION_COLUMNS)
_PAYMENT = ", ".join(PAYMENT_COLUMNS)


async def enter(tx: Tx, request_id: UUID) -> bool:
    """Enter a request; False where it was answered before."""
    entered = await tx.execute(
        "insert into telling_again (tenant_id, mode, request_id) values ($1, $2, $3) "
        "on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        request_id,
    )
    return entered == 1


async def find_transactions(tx: Tx, account: str, ids: Sequence[str]) -> list[Row]:
    """Those of these balance transactions that the tenants in scope have."""
    return await tx.fetch(
        f"""
        select tenant_id, {_TRANSACTION}, told from balance_transaction
        where tenant_id = any($1::uuid[]) and mode = $2 and account = $3
            and stripe_balance_transaction_id = any($4::text[])
        order by created_at, stripe_balance_transaction_id
        """,  # noqa: S608 - constants only
        list(tx.scope.tenants),
        tx.mode,
        account,
        list(ids),
    )


async def find_payments(
    tx: Tx,
    account: str,
    charges: Sequence[str],
    invoices: Sequence[str],
    began_at: datetime | None,
) -> list[Row]:
    """Those payments of the tenants in scope that were made by these charges, or of these invoices.

    Args:
        began_at: what was paid before and never told is left out.
    """
    return await tx.fetch(
        f"""
        select tenant_id, {_PAYMENT} from payment
        where tenant_id = any($1::uuid[]) and mode = $2 and account = $3
            and (stripe_charge_id = any($4::text[]) or stripe_invoice_id = any($5::text[]))
            and stripe_charge_id is not null and paid_at is not null
            and (told is not null or $6::timestamptz is null or paid_at >= $6)
        order by paid_at, stripe_charge_id
        """,  # noqa: S608 - constants only
        list(tx.scope.tenants),
        tx.mode,
        account,
        list(charges),
        list(invoices),
        began_at,
    )
