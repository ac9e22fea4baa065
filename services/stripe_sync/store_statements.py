"""SQL of requested statements."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from libs.contracts.envelope import Envelope
from libs.contracts.stripe_sync import StatementLine, StatementPayout
from libs.db.pool import Row, Tx

Json = Mapping[str, Any]

KEPT_AT_ONCE = 5_000


async def insert(
    tx: Tx,
    statement_id: UUID,
    account: str,
    listed_from: datetime,
    listed_to: datetime,
    event: Envelope[Any],
) -> None:
    """Enter a request once."""
    await tx.execute(
        """
        insert into statement_request (tenant_id, mode, statement_id, account, listed_from,
            listed_to, requested_at, effective_at, causation_id, correlation_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        statement_id,
        account,
        listed_from,
        listed_to,
        event.occurred_at,
        event.effective_at,
        event.id,
        event.correlation_id,
    )


async def due(tx: Tx, now: datetime, limit: int) -> list[tuple[UUID, str, UUID]]:
    """(tenant, mode, id) of the oldest due request of each account, the oldest first."""
    rows = await tx.fetch(
        """
        select * from (
            select distinct on (account, mode) tenant_id, mode, statement_id, requested_at
            from statement_request where state = 'pending' and next_try_at <= $1
            order by account, mode, requested_at, statement_id) as first
        order by requested_at limit $2
        """,
        now,
        limit,
    )
    return [(row["tenant_id"], row["mode"], row["statement_id"]) for row in rows]


async def read(tx: Tx, statement_id: UUID) -> Row | None:
    """A request of the tenant in scope that is not answered yet."""
    return await tx.fetchrow(
        "select * from statement_request where tenant_id = $1 and mode = $2 "
        "and statement_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        statement_id,
    )


async def begin(tx: Tx, statement_id: UUID, listed_at: datetime, balances: Sequence[Json]) -> None:
    """Nothing is listed yet; what Stripe holds now. The first slice is all of the time."""
    await tx.execute(
        """
        update statement_request set listed_at = $4, balances = $5, listed_upto = listed_from,
            slice_seconds = ceil(extract(epoch from listed_to - listed_from)),
            line_count = 0, payout_count = 0, digest = null, sent_parts = 0
        where tenant_id = $1 and mode = $2 and statement_id = $3
        """,
        tx.tenant_id,
        tx.mode,
        statement_id,
        listed_at,
        list(balances),
    )


async def start_over(tx: Tx, statement_id: UUID) -> None:
    """Nothing is listed: what was kept is about to be dropped."""
    await tx.execute(
        "update statement_request set listed_upto = null "
        "where tenant_id = $1 and mode = $2 and statement_id = $3",
        tx.tenant_id,
        tx.mode,
        statement_id,
    )


async def cut(tx: Tx, statement_id: UUID, span: timedelta) -> None:
    """List shorter slices from now on."""
    await tx.execute(
        "update statement_request set slice_seconds = ceil($4::float8) "
        "where tenant_id = $1 and mode = $2 and statement_id = $3",
        tx.tenant_id,
        tx.mode,
        statement_id,
        span.total_seconds(),
    )


async def keep_slice(
    tx: Tx,
    row: Row,
    listed_upto: datetime,
    lines: Sequence[StatementLine],
    payouts: Sequence[StatementPayout],
) -> None:
    """Keep what was listed up to a time, after what was kept before; tries are counted anew."""
    await _keep(tx, row["statement_id"], "line", row["line_count"], lines)
    await _keep(tx, row["statement_id"], "payout", row["payout_count"], payouts)
    await tx.execute(
        """
        update statement_request set listed_upto = $4, line_count = line_count + $5,
            payout_count = payout_count + $6, attempts = 0
        where tenant_id = $1 and mode = $2 and statement_id = $3
        """,
        tx.tenant_id,
        tx.mode,
        row["statement_id"],
        listed_upto,
        len(lines),
        len(payouts),
    )


async def _keep(
    tx: Tx,
    statement_id: UUID,
    kind: str,
    before: int,
    entries: Sequence[StatementLine | StatementPayout],
) -> None:
    for start in range(0, len(entries), KEPT_AT_ONCE):
        some = entries[start : start + KEPT_AT_ONCE]
        await tx.execute(
            """
            insert into statement_entry (tenant_id, mode, statement_id, kind, position, entry)
            select $1, $2, $3, $4, $5 + ordinality - 1, entry
            from jsonb_array_elements($6::jsonb) with ordinality as e(entry, ordinality)
            """,
            tx.tenant_id,
            tx.mode,
            statement_id,
            kind,
            before + start,
            [each.model_dump(mode="json") for each in some],
        )


async def keep_departures(
    tx: Tx, statement_id: UUID, payout_id: str, transactions: Sequence[str]
) -> None:
    """Keep with which payout balance transactions left."""
    await tx.execute(
        """
        insert into statement_departure (tenant_id, mode, statement_id,
            stripe_balance_transaction_id, payout_id)
        select $1, $2, $3, t, $4 from unnest($5::text[]) as t
        on conflict (tenant_id, mode, statement_id, stripe_balance_transaction_id)
            do update set payout_id = excluded.payout_id
        """,
        tx.tenant_id,
        tx.mode,
        statement_id,
        payout_id,
        list(dict.fromkeys(transactions)),
    )


async def entries_of(
    tx: Tx, row: Row, first: int, end: int
) -> list[StatementLine | StatementPayout]:
    """Kept entries from one place to before another; all lines come before all payouts."""
    found = await tx.fetch(
        """
        with part as (
            select kind, position, entry from statement_entry
            where tenant_id = $1 and mode = $2 and statement_id = $3 and kind = 'line'
                and position >= $4 and position < $5
            union all
            select kind, position, entry from statement_entry
            where tenant_id = $1 and mode = $2 and statement_id = $3 and kind = 'payout'
                and position >= $4 - $6 and position < $5 - $6
        )
        select e.kind, e.entry, d.payout_id from part e
        left join lateral (
            select payout_id from statement_departure
            where e.kind = 'line' and tenant_id = $1 and mode = $2 and statement_id = $3
                and stripe_balance_transaction_id = e.entry ->> 'stripe_balance_transaction_id'
            offset 0) d on true
        order by e.kind, e.position
        """,
        tx.tenant_id,
        tx.mode,
        row["statement_id"],
        first,
        end,
        row["line_count"],
    )
    return [
        StatementLine.model_validate(each["entry"] | {"payout_id": each["payout_id"]})
        if each["kind"] == "line"
        else StatementPayout.model_validate(each["entry"])
        for each in found
    ]


async def note_digest(tx: Tx, statement_id: UUID, digest: str) -> None:
    """All is listed, and this proves it whole."""
    await tx.execute(
        "update statement_request set digest = $4 "
        "where tenant_id = $1 and mode = $2 and statement_id = $3",
        tx.tenant_id,
        tx.mode,
        statement_id,
        digest,
    )


async def note_sent(tx: Tx, statement_id: UUID, parts: int) -> None:
    """So many parts were told."""
    await tx.execute(
        "update statement_request set sent_parts = $4 "
        "where tenant_id = $1 and mode = $2 and statement_id = $3",
        tx.tenant_id,
        tx.mode,
        statement_id,
        parts,
    )


async def drop_entries(tx: Tx, statement_id: UUID, limit: int) -> int:
    """Forget some of what was kept of a statement; how much of it at most, of one table."""
    key = tx.tenant_id, tx.mode, statement_id, limit
    entries = await tx.execute(
        """
        delete from statement_entry where ctid = any(array(
            select ctid from statement_entry
            where tenant_id = $1 and mode = $2 and statement_id = $3 limit $4))
        """,
        *key,
    )
    departures = await tx.execute(
        """
        delete from statement_departure where ctid = any(array(
            select ctid from statement_departure
            where tenant_id = $1 and mode = $2 and statement_id = $3 limit $4))
        """,
        *key,
    )
    return max(entries, departures)


async def end(tx: Tx, statement_id: UUID, state: str, error: str | None) -> bool:
    """A request was answered; False where it had been before."""
    ended = await tx.execute(
        "update statement_request set state = $4, last_error = $5, attempts = attempts + 1 "
        "where tenant_id = $1 and mode = $2 and statement_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        statement_id,
        state,
        error[:500] if error else None,
    )
    return ended == 1


async def postpone(tx: Tx, statement_id: UUID, until: datetime, error: str) -> None:
    """Try again later."""
    await tx.execute(
        "update statement_request set next_try_at = $4, last_error = $5, attempts = attempts + 1 "
        "where tenant_id = $1 and mode = $2 and statement_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        statement_id,
        until,
        error[:500],
    )
