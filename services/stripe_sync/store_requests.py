"""SQL of payment requests: calls that move money, frozen before they are made."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx
from libs.db.tenant import Mode
from services.stripe_sync.store_payments import PAYMENT_COLUMNS

Json = dict[str, Any]

_PAYMENT = ", ".join(f"p.{name}" for name in PAYMENT_COLUMNS)

OUTCOME_UNKNOWN = "outcome_unknown"
"""How a request ends that was sent, and about which Stripe could not be asked for a day."""

_IS_LOST = "state = 'refused' and kind = 'refund' and refusal = 'outcome_unknown'"
"""A refund that ended so: it counts as given back until Stripe says whether it has it."""


async def reserve(tx: Tx, request: Json) -> tuple[Row, bool]:
    """A request, entered now; with a client's key the one entered first under it.

    Returns:
        The row, and whether it was entered now.
    """
    inserted = await tx.execute(
        """
        insert into payment_request (tenant_id, mode, request_id, kind, payment_id, account, actor,
            client_key, request, next_try_at, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        request["request_id"],
        request["kind"],
        request["payment_id"],
        request["account"],
        request["actor"],
        request["client_key"],
        request["request"],
        request["next_try_at"],
        request["created_at"],
    )
    row = await tx.fetchrow(
        "select * from payment_request where tenant_id = $1 and mode = $2 "
        "and (request_id = $3 or (actor = $4 and client_key = $5))",
        tx.tenant_id,
        tx.mode,
        request["request_id"],
        request["actor"],
        request["client_key"],
    )
    return row, inserted == 1


async def find_by_key(tx: Tx, actor: str, client_key: str) -> Row | None:
    """The request that was entered under a client's key."""
    return await tx.fetchrow(
        "select * from payment_request where tenant_id = $1 and mode = $2 and actor = $3 "
        "and client_key = $4",
        tx.tenant_id,
        tx.mode,
        actor,
        client_key,
    )


async def end(
    tx: Tx,
    request_id: UUID,
    state: str,
    *,
    refusal: str | None = None,
    refusal_status: int | None = None,
) -> bool:
    """A request has its answer, and what was sent is forgotten; False where it had one before."""
    return (
        await tx.execute(
            "update payment_request set state = $4, refusal = $5, refusal_status = $6, "
            "request = '{}', attempts = attempts + 1, last_error = null "
            "where tenant_id = $1 and mode = $2 and request_id = $3 and state = 'open'",
            tx.tenant_id,
            tx.mode,
            request_id,
            state,
            refusal[:200] if refusal else None,
            refusal_status,
        )
        == 1
    )


async def end_lost(tx: Tx, request_id: UUID, state: str, refusal: str | None) -> bool:
    """Stripe has told of a lost refund after all; False where it had before."""
    return (
        await tx.execute(
            f"update payment_request set state = $4, refusal = $5, attempts = attempts + 1 "  # noqa: S608 - constants only
            f"where tenant_id = $1 and mode = $2 and request_id = $3 and {_IS_LOST}",
            tx.tenant_id,
            tx.mode,
            request_id,
            state,
            refusal,
        )
        == 1
    )


async def find_lost(tx: Tx, refund_id: UUID) -> Row | None:
    """The refund that a lost request was for, as it was entered or as the mirror has it by now."""
    return await tx.fetchrow(
        "select stripe_charge_id, stripe_payment_intent_id from refund "
        "where tenant_id = $1 and mode = $2 and refund_id = $3",
        tx.tenant_id,
        tx.mode,
        refund_id,
    )


async def note_sent(tx: Tx, request_id: UUID) -> bool | None:
    """A request is about to be sent: whether it may have been before; None where it has its answer."""
    sent_before: bool | None = await tx.fetchval(
        """
        update payment_request r set sent = true
        from (select sent from payment_request where tenant_id = $1 and mode = $2
            and request_id = $3 and state = 'open' for update) as was
        where r.tenant_id = $1 and r.mode = $2 and r.request_id = $3 returning was.sent
        """,
        tx.tenant_id,
        tx.mode,
        request_id,
    )
    return sent_before


async def was_sent(tx: Tx, request_id: UUID) -> bool:
    """Whether Stripe may have received a request."""
    return bool(
        await tx.fetchval(
            "select sent from payment_request where tenant_id = $1 and mode = $2 "
            "and request_id = $3",
            tx.tenant_id,
            tx.mode,
            request_id,
        )
    )


async def postpone(tx: Tx, request_id: UUID, until: datetime, error: str) -> None:
    """Nobody knows what came of it: somebody looks later."""
    await tx.execute(
        "update payment_request set next_try_at = $4, last_error = $5, attempts = attempts + 1 "  # noqa: S608 - constants only
        "where tenant_id = $1 and mode = $2 and request_id = $3 "
        f"and (state = 'open' or {_IS_LOST})",
        tx.tenant_id,
        tx.mode,
        request_id,
        until,
        error[:500],
    )


async def oldest_open(tx: Tx) -> datetime | None:
    """When the oldest request without an answer was entered."""
    found: datetime | None = await tx.fetchval(
        "select min(created_at) from payment_request where state = 'open'"
    )
    return found


async def due_accounts(
    tx: Tx, now: datetime, busy: Sequence[str], limit: int
) -> list[tuple[str, Mode]]:
    """(account, mode) of requests without an answer whose turn it is, the longest waiting first."""
    rows = await tx.fetch(
        f"""
        select account, mode from payment_request
        where (state = 'open' or {_IS_LOST}) and next_try_at <= $1 and account <> all ($2::text[])
        group by account, mode order by min(next_try_at) limit $3
        """,  # noqa: S608 - constants only
        now,
        busy,
        limit,
    )
    return [(row["account"], row["mode"]) for row in rows]


async def take_due(
    tx: Tx, account: str, mode: Mode, now: datetime, until: datetime, limit: int
) -> Sequence[Row]:
    """Due requests of an account, over its tenants; other workers leave them alone until then."""
    return await tx.fetch(
        f"""
        update payment_request r set next_try_at = $4
        from (select tenant_id, mode, request_id from payment_request
            where (state = 'open' or {_IS_LOST}) and account = $1 and mode = $2
                and next_try_at <= $3
            order by next_try_at limit $5 for update skip locked) as d
        where r.tenant_id = d.tenant_id and r.mode = d.mode and r.request_id = d.request_id
        returning r.*
        """,  # noqa: S608 - constants only
        account,
        mode,
        now,
        until,
        limit,
    )


async def lock_payment(tx: Tx, payment_id: UUID) -> Json | None:
    """A payment of the tenant in scope, locked."""
    row = await tx.fetchrow(
        f"select {_PAYMENT} from payment p "  # noqa: S608 - constants only
        "where p.tenant_id = $1 and p.mode = $2 and p.payment_id = $3 for update",
        tx.tenant_id,
        tx.mode,
        payment_id,
    )
    return dict(row) if row else None


async def insert_payment(tx: Tx, payment: Json, stripe_customer_id: str) -> None:
    """Enter a payment that Stripe is about to be asked for."""
    await tx.execute(
        """
        insert into payment (tenant_id, mode, payment_id, account, collected_by, customer_id,
            stripe_customer_id, origin_known, status, amount_minor, currency, description,
            receipt_email, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, true, 'UNKNOWN', $8, $9, $10, $11, $12)
        """,
        tx.tenant_id,
        tx.mode,
        payment["payment_id"],
        payment["account"],
        payment["collected_by"],
        payment["customer_id"],
        stripe_customer_id,
        payment["amount_minor"],
        payment["currency"],
        payment["description"],
        payment["receipt_email"],
        payment["created_at"],
    )


async def fail_payment(tx: Tx, payment_id: UUID, failure_code: str) -> None:
    """Nothing was made at Stripe, or nobody can tell what; the mirror corrects this if it can."""
    await tx.execute(
        "update payment set status = 'FAILED', failure_code = $4 where tenant_id = $1 and mode = $2 "
        "and payment_id = $3 and status = 'UNKNOWN'",
        tx.tenant_id,
        tx.mode,
        payment_id,
        failure_code[:200],
    )


async def list_intents(
    tx: Tx, mode: str, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[Row]:
    """Payments in view that were asked for as intents, newest first."""
    at, payment_id = after or (None, None)
    return await tx.fetch(
        f"""
        select p.tenant_id, p.mode, {_PAYMENT} from payment_request r
        join payment p on p.tenant_id = r.tenant_id and p.mode = r.mode
            and p.payment_id = r.payment_id
        where r.mode = $1 and r.kind = 'intent'
          and ($2::timestamptz is null or (p.created_at, p.payment_id) < ($2, $3::uuid))
        order by p.created_at desc, p.payment_id desc limit $4
        """,  # noqa: S608 - constants only
        mode,
        at,
        payment_id,
        limit,
    )


async def given_back_minor(tx: Tx, payment_id: UUID) -> int:
    """What refunds of a payment come to, those included that Stripe has not answered yet."""
    return int(
        await tx.fetchval(
            "select coalesce(sum(amount_minor), 0)::bigint from refund where tenant_id = $1 "
            "and mode = $2 and payment_id = $3 and status not in ('failed', 'canceled')",
            tx.tenant_id,
            tx.mode,
            payment_id,
        )
    )


async def insert_refund(tx: Tx, refund: Json) -> None:
    """Enter a refund that Stripe is about to be asked for."""
    await tx.execute(
        """
        insert into refund (tenant_id, mode, refund_id, account, collected_by, customer_id,
            payment_id, stripe_charge_id, stripe_payment_intent_id, status, amount_minor, currency,
            reason, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'unknown', $10, $11, $12, $13)
        """,
        tx.tenant_id,
        tx.mode,
        refund["refund_id"],
        refund["account"],
        refund["collected_by"],
        refund["customer_id"],
        refund["payment_id"],
        refund["stripe_charge_id"],
        refund["stripe_payment_intent_id"],
        refund["amount_minor"],
        refund["currency"],
        refund["reason"],
        refund["created_at"],
    )


async def answer_refund(
    tx: Tx, refund_id: UUID, *, status: str, stripe_refund_id: str | None, failure: str | None
) -> None:
    """What Stripe answered to a refund, unless the mirror knows it already."""
    await tx.execute(
        "update refund set status = $4, stripe_refund_id = $5, failure_reason = $6 "
        "where tenant_id = $1 and mode = $2 and refund_id = $3 and stripe_refund_id is null "
        "and status = 'unknown'",
        tx.tenant_id,
        tx.mode,
        refund_id,
        status,
        stripe_refund_id,
        failure[:200] if failure else None,
    )


async def note_receipt(
    tx: Tx, payment_id: UUID, *, number: str | None, url: str | None, email: str | None
) -> None:
    """Remember the receipt of a payment, and where it went."""
    await tx.execute(
        "update payment set receipt_number = $4, receipt_url = $5, receipt_email = $6 "
        "where tenant_id = $1 and mode = $2 and payment_id = $3",
        tx.tenant_id,
        tx.mode,
        payment_id,
        number,
        url,
        email,
    )
