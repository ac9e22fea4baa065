"""SQL of percentiles: how often each value came, by series and minute."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from libs.db.pool import Tx

Ranks = Mapping[tuple[UUID, UUID, datetime, Decimal], int]
"""How often a value came, by tenant, series and minute."""


async def add(tx: Tx, ranks: Ranks) -> None:
    """Count values; one statement, none where there are none."""
    if not ranks:
        return
    places = sorted(ranks)
    await tx.execute(
        """
        insert into usage_rank as r (tenant_id, mode, series_id, minute, value, event_count)
        select t, $1, s, at, v, n
        from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::numeric[], $6::bigint[])
            as u(t, s, at, v, n)
        on conflict (tenant_id, mode, series_id, minute, value) do update set
            event_count = r.event_count + excluded.event_count
        """,
        tx.mode,
        *[list(column) for column in zip(*places, strict=True)],
        [ranks[place] for place in places],
    )


async def take_back(tx: Tx, ranks: Ranks) -> None:
    """Count values no more; one that never came then is gone."""
    if not ranks:
        return
    places = sorted(ranks)
    columns = [list(column) for column in zip(*places, strict=True)]
    await tx.execute(
        """
        update usage_rank r set event_count = r.event_count - u.n
        from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::numeric[], $6::bigint[])
            as u(t, s, at, v, n)
        where r.tenant_id = u.t and r.mode = $1 and r.series_id = u.s and r.minute = u.at
            and r.value = u.v
        """,
        tx.mode,
        *columns,
        [ranks[place] for place in places],
    )
    await tx.execute(
        """
        delete from usage_rank r
        using unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::numeric[]) as u(t, s, at, v)
        where r.tenant_id = u.t and r.mode = $1 and r.series_id = u.s and r.minute = u.at
            and r.value = u.v and r.event_count = 0
        """,
        tx.mode,
        *columns,
    )
