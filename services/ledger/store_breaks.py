"""SQL of breaks and their history."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx
from libs.db.tenant import Mode

Json = dict[str, Any]

_COLUMNS = (
    "id",
    "account",
    "kind",
    "reference",
    "state",
    "currency",
    "stripe_minor",
    "ledger_minor",
    "occurred_at",
    "found_at",
    "last_found_at",
    "reconciliation_id",
    "times_found",
    "owner",
    "reason",
    "accepted_at",
    "resolved_at",
    "transactions",
    "entries",
    "proposal",
)
_NAMES = ", ".join(_COLUMNS)
_UPDATES = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[4:])
_WRITE = f"""
    insert into reconciliation_break (tenant_id, mode, {_NAMES})
    select $1, $2, {_NAMES} from jsonb_populate_recordset(null::reconciliation_break, $3::text::jsonb)
    order by id
    on conflict (tenant_id, mode, id) do update set {_UPDATES}
"""  # noqa: S608 - constants only


@dataclass(frozen=True)
class Change:
    """Something that happened to a break."""

    break_id: UUID
    change: str
    changed_at: datetime
    actor: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Wanted:
    """Which breaks are listed; None does not narrow the list."""

    account: str | None = None
    kind: str | None = None
    states: Sequence[str] | None = None
    owner: str | None = None


async def known(tx: Tx, account: str, keys: Sequence[tuple[str, str]]) -> list[Json]:
    """Those of these breaks (kind, reference) of an account that were found before, locked."""
    rows = await tx.fetch(
        """
        select b.* from unnest($4::text[], $5::text[]) as k(kind, reference)
        join reconciliation_break b on b.tenant_id = $1 and b.mode = $2 and b.account = $3
            and b.kind = k.kind and b.reference = k.reference
        order by b.id for update of b
        """,
        tx.tenant_id,
        tx.mode,
        account,
        [kind for kind, _ in keys],
        [reference for _, reference in keys],
    )
    return [dict(row) for row in rows]


async def not_found(
    tx: Tx, account: str, run_id: UUID, listed_from: datetime, listed_to: datetime, limit: int
) -> list[Json]:
    """Breaks of a time that is compared as a whole which this run did not come upon, locked."""
    rows = await tx.fetch(
        """
        select * from reconciliation_break
        where tenant_id = $1 and mode = $2 and account = $3 and state <> 'resolved'
            and kind <> 'balance' and reconciliation_id <> $4
            and occurred_at >= $5 and occurred_at < $6
        order by id limit $7 for update
        """,
        tx.tenant_id,
        tx.mode,
        account,
        run_id,
        listed_from,
        listed_to,
        limit,
    )
    return [dict(row) for row in rows]


async def of_kind_in_run(tx: Tx, account: str, run_id: UUID, kind: str) -> list[Row]:
    """What a run found of one kind."""
    return await tx.fetch(
        "select reference, currency, ledger_minor - stripe_minor as excess_minor "
        "from reconciliation_break where tenant_id = $1 and mode = $2 and account = $3 "
        "and reconciliation_id = $4 and kind = $5 and state <> 'resolved'",
        tx.tenant_id,
        tx.mode,
        account,
        run_id,
        kind,
    )


async def oldest_unsettled(tx: Tx, account: str) -> datetime | None:
    """When the movement of an account's oldest break happened that a run may still see repaired.

    What is ignored, or is acknowledged to be as it is, may stay for ever.
    """
    at: datetime | None = await tx.fetchval(
        "select min(occurred_at) from reconciliation_break where tenant_id = $1 and mode = $2 "
        "and account = $3 and state not in ('resolved', 'ignored') and kind <> 'balance' "
        "and not (state = 'accepted' and coalesce(proposal ->> 'action', '') = 'acknowledge')",
        tx.tenant_id,
        tx.mode,
        account,
    )
    return at


async def write(tx: Tx, breaks: Sequence[Mapping[str, Any]]) -> None:
    """Insert breaks of the tenant in scope, or replace them by their id."""
    rows = [{name: each[name] for name in _COLUMNS} for each in breaks]
    await tx.execute(_WRITE, tx.tenant_id, tx.mode, json.dumps(rows, default=str))


async def add_changes(tx: Tx, changes: Sequence[Change]) -> None:
    """Add what happened to breaks of the tenant in scope to their history, one thing each."""
    await tx.execute(
        """
        insert into reconciliation_break_change (tenant_id, mode, break_id, seq, changed_at, change,
            actor, detail)
        select $1, $2, b, 1 + (select coalesce(max(seq), 0) from reconciliation_break_change h
            where h.tenant_id = $1 and h.mode = $2 and h.break_id = b), at, c, a, d
        from unnest($3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[])
            as u(b, at, c, a, d)
        """,
        tx.tenant_id,
        tx.mode,
        [each.break_id for each in changes],
        [each.changed_at for each in changes],
        [each.change for each in changes],
        [each.actor for each in changes],
        [each.detail for each in changes],
    )


async def find(tx: Tx, break_id: UUID, *, lock: bool = False) -> Json | None:
    """A break of the tenant in scope."""
    row = await tx.fetchrow(
        "select * from reconciliation_break where tenant_id = $1 and mode = $2 and id = $3 for update"
        if lock
        else "select * from reconciliation_break where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        break_id,
    )
    return dict(row) if row else None


async def history_of(tx: Tx, break_id: UUID) -> list[Row]:
    """What happened to a break, in its order."""
    return await tx.fetch(
        "select seq, changed_at, change, actor, detail from reconciliation_break_change "
        "where tenant_id = $1 and mode = $2 and break_id = $3 order by seq",
        tx.tenant_id,
        tx.mode,
        break_id,
    )


async def list_breaks(
    tx: Tx, mode: Mode, tenant_id: UUID | None, wanted: Wanted, before: UUID | None, limit: int
) -> list[Json]:
    """Breaks in sight, newest first.

    Args:
        tenant_id: None lists those of all tenants.
    """
    rows = await tx.fetch(
        """
        select * from reconciliation_break
        where mode = $1 and ($2::uuid is null or tenant_id = $2)
            and ($3::text is null or account = $3) and ($4::text is null or kind = $4)
            and ($5::text[] is null or state = any($5)) and ($6::text is null or owner = $6)
            and ($7::uuid is null or id < $7)
        order by id desc limit $8
        """,
        mode,
        tenant_id,
        wanted.account,
        wanted.kind,
        None if wanted.states is None else list(wanted.states),
        wanted.owner,
        before,
        limit,
    )
    return [dict(row) for row in rows]


async def count_open(tx: Tx) -> list[Row]:
    """Breaks nobody has dealt with, by kind, with the time of the oldest; as maintenance."""
    return await tx.fetch(
        "select kind, count(*) as breaks, min(found_at) as oldest_at from reconciliation_break "
        "where state in ('open', 'proposed') group by kind"
    )
