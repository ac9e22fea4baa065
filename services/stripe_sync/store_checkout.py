"""SQL of customer links and checkout sessions."""

from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx

Json = dict[str, Any]


async def reserve_link(
    tx: Tx,
    account: str,
    customer_id: UUID,
    request: Json,
    clock_time: datetime | None,
    created_at: datetime,
) -> Row:
    """The link of a customer, entered now with this request unless it is there already."""
    await tx.execute(
        """
        insert into customer_link (tenant_id, mode, account, customer_id, request, clock_time,
            created_at)
        values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        account,
        customer_id,
        request,
        clock_time,
        created_at,
    )
    return await find_link(tx, account, customer_id)


async def find_link(tx: Tx, account: str, customer_id: UUID) -> Row | None:
    """The link of a customer."""
    return await tx.fetchrow(
        "select customer_id, request, clock_time, stripe_customer_id, stripe_test_clock_id, created_at "
        "from customer_link where tenant_id = $1 and mode = $2 and account = $3 "
        "and customer_id = $4",
        tx.tenant_id,
        tx.mode,
        account,
        customer_id,
    )


async def set_clock(tx: Tx, account: str, customer_id: UUID, clock_id: str) -> None:
    """Remember the test clock the customer will live on."""
    await tx.execute(
        "update customer_link set stripe_test_clock_id = $5 where tenant_id = $1 and mode = $2 "
        "and account = $3 and customer_id = $4 and stripe_test_clock_id is null",
        tx.tenant_id,
        tx.mode,
        account,
        customer_id,
        clock_id,
    )


async def complete_link(tx: Tx, account: str, customer_id: UUID, stripe_id: str) -> bool:
    """Enter the Stripe customer; False where a twin did it first."""
    return (
        await tx.execute(
            "update customer_link set stripe_customer_id = $5 where tenant_id = $1 and mode = $2 "
            "and account = $3 and customer_id = $4 and stripe_customer_id is null",
            tx.tenant_id,
            tx.mode,
            account,
            customer_id,
            stripe_id,
        )
        == 1
    )


async def clocks_of(tx: Tx, account: str) -> list[Row]:
    """(test clock, Stripe customer) of the tenant in scope: the tenant itself before its customers."""
    return await tx.fetch(
        "select l.stripe_test_clock_id, l.stripe_customer_id from customer_link l "
        "left join known_customer k on k.tenant_id = l.tenant_id and k.mode = l.mode "
        "and k.customer_id = l.customer_id and k.billed_by = 'tenant' "
        "where l.tenant_id = $1 and l.mode = $2 and l.account = $3 "
        "and l.stripe_test_clock_id is not null and l.stripe_customer_id is not null "
        "order by k.customer_id is not null, l.created_at limit 1",
        tx.tenant_id,
        tx.mode,
        account,
    )


async def reserve_session(tx: Tx, session: Json) -> Row:
    """A checkout, entered now; with a client's key the one entered first under it.

    Of a plan a customer has one open page only: where that is another's, it is the answer.
    """
    await tx.execute(
        """
        insert into checkout_session (tenant_id, mode, checkout_id, actor, client_key, account,
            customer_id, plan_version_id, request, created_at, open)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        session["checkout_id"],
        session["actor"],
        session["client_key"],
        session["account"],
        session["customer_id"],
        session["plan_version_id"],
        session["request"],
        session["created_at"],
        session["plan_version_id"] is not None,
    )
    return await tx.fetchrow(
        """
        select checkout_id, plan_version_id, request, stripe_session_id, url, created_at,
            checkout_id = $3 or coalesce(actor = $4 and client_key = $5, false) as asked_for
        from checkout_session where tenant_id = $1 and mode = $2 and
            (checkout_id = $3 or (actor = $4 and client_key = $5)
            or (open and account = $6 and customer_id = $7 and $8))
        order by asked_for desc limit 1
        """,
        tx.tenant_id,
        tx.mode,
        session["checkout_id"],
        session["actor"],
        session["client_key"],
        session["account"],
        session["customer_id"],
        session["plan_version_id"] is not None,
    )


async def close_session(tx: Tx, checkout_id: UUID) -> None:
    """The page cannot be paid any more: the customer may have another one."""
    await tx.execute(
        "update checkout_session set open = false "
        "where tenant_id = $1 and mode = $2 and checkout_id = $3",
        tx.tenant_id,
        tx.mode,
        checkout_id,
    )


async def complete_session(tx: Tx, checkout_id: UUID, stripe_session_id: str, url: str) -> None:
    """Enter what Stripe answered."""
    await tx.execute(
        "update checkout_session set stripe_session_id = $4, url = $5 "
        "where tenant_id = $1 and mode = $2 and checkout_id = $3",
        tx.tenant_id,
        tx.mode,
        checkout_id,
        stripe_session_id,
        url,
    )
