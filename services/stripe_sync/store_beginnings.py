"""SQL of when tenants' accounts began to be ours."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Tx


async def find(tx: Tx, tenant_id: UUID, account: str) -> datetime | None:
    """From when on an account is ours, where that is known."""
    found: datetime | None = await tx.fetchval(
        "select ours_from from account_beginning "
        "where tenant_id = $1 and mode = $2 and account = $3",
        tenant_id,
        tx.mode,
        account,
    )
    return found


async def begin(tx: Tx, tenant_id: UUID, account: str, now: datetime, otherwise: datetime) -> None:
    """Keep since when the tenant's record has the account, unless somebody else was first.

    Args:
        otherwise: for a record that does not say it.
    """
    await tx.execute(
        """
        insert into account_beginning (tenant_id, mode, account, ours_from)
        select $1, $2, $3, date_trunc('second', least($4, coalesce((
            select (c ->> 'account_since')::timestamptz
            from directory d cross join lateral jsonb_array_elements(d.snapshot -> 'connections') c
            where d.tenant_id = $1 and c ->> 'mode' = $2 and c ->> 'account_id' = $3
            limit 1), $5)))
        on conflict do nothing
        """,
        tenant_id,
        tx.mode,
        account,
        now,
        otherwise,
    )
