"""SQL of quarantine: what waits there, and for whom."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from services.gateway.store import EVENT_COLUMNS, KeptEvent, kept_event

RELEASED = "released"
"""Instead of the reason, once staff have let an event go: it stands in the archive a second time."""


async def mark_released(tx: Tx, holder_id: UUID, event_id: UUID, reason: str) -> bool:
    """An event that is kept aside for this reason is let go; False: it was before."""
    marked = await tx.execute(
        "update webhook_event set assignment = 'operator', quarantine_reason = $5 "
        "where tenant_id = $1 and mode = $2 and id = $3 and quarantine_reason = $4",
        holder_id,
        tx.mode,
        event_id,
        reason,
        RELEASED,
    )
    return marked == 1


async def known_waiting_accounts(tx: Tx, limit: int) -> list[Row]:
    """(account, mode, tenant_id) of waiting events whose account the directory knows by now.

    An account that moved is the tenant's whose record named it last, as `find_tenant` has it.
    """
    return await tx.fetch(
        """
        select account, mode, tenant_id from (
            select e.account, e.mode, coalesce(
                (select a.tenant_id from directory_account a
                 where a.value = e.mode || ':' || e.account
                 order by a.claimed_at desc, a.tenant_id limit 1),
                (select l.tenant_id from directory_lookup l
                 where l.kind = 'account' and l.value = e.mode || ':' || e.account)) as tenant_id
            from (select distinct account, mode from webhook_event
                where quarantine_reason = 'unknown_account') as e) as waiting
        where tenant_id is not null
        limit $1
        """,
        limit,
    )


async def hand_over(
    tx: Tx, holder_id: UUID, tenant_id: UUID, mode: str, account: str, limit: int
) -> list[KeptEvent]:
    """Give waiting events of an account to a tenant, the oldest first; both are in scope."""
    rows = await tx.fetch(
        f"""
        update webhook_event set tenant_id = $2, assignment = 'account', quarantine_reason = null
        where tenant_id = $1 and mode = $3 and id in (
            select id from webhook_event where tenant_id = $1 and mode = $3 and account = $4
                and quarantine_reason = 'unknown_account'
            order by received_at, id limit $5 for update skip locked)
        returning {EVENT_COLUMNS}, payload, headers
        """,  # noqa: S608 - constants only
        holder_id,
        tenant_id,
        mode,
        account,
        limit,
    )
    return [
        kept_event(row) for row in sorted(rows, key=lambda row: (row["received_at"], row["id"]))
    ]


async def count_by_reason(tx: Tx, before: datetime) -> dict[str, int]:
    """Events in quarantine by reason; those of an unknown account only if they came earlier."""
    rows = await tx.fetch(
        """
        select quarantine_reason as reason, count(*) as events from webhook_event
        where quarantine_reason is not null
            and (quarantine_reason <> 'unknown_account' or received_at < $1)
        group by 1
        """,
        before,
    )
    return {row["reason"]: row["events"] for row in rows}


async def enter_unknown(
    tx: Tx, holder_id: UUID, before: datetime, at: datetime, limit: int
) -> list[Row]:
    """(account, mode) that wait since before and of which nobody was told; told from now on."""
    return await tx.fetch(
        """
        insert into unknown_account (tenant_id, mode, account, told_at)
        select distinct $1::uuid, e.mode, e.account, $3::timestamptz from webhook_event e
        where e.quarantine_reason = 'unknown_account' and e.received_at < $2 and not exists (
            select from unknown_account u
            where u.tenant_id = $1 and u.mode = e.mode and u.account = e.account)
        limit $4
        on conflict do nothing returning account, mode
        """,
        holder_id,
        before,
        at,
        limit,
    )


async def forget_unknown(tx: Tx, holder_id: UUID, mode: str, account: str) -> None:
    """An account is known now; should it be unknown again, that is told again."""
    await tx.execute(
        "delete from unknown_account where tenant_id = $1 and mode = $2 and account = $3",
        holder_id,
        mode,
        account,
    )
