"""Sums over an account's postings that balances at a time are read from, computed anew."""

from collections.abc import Sequence
from typing import Any

_BLOCKS = """
select (select count(*) from ledger.posting_block
        where tenant_id = $1 and mode = $2 and book = $3)::bigint
    - (select coalesce(sum(last_seq / 1024), 0) from ledger.account_balance
       where tenant_id = $1 and mode = $2 and book = $3)::bigint
"""

_SPANS = """
with hour as (
    select p.account, p.currency, date_trunc('hour', p.effective_at, 'UTC') as starts_at,
        sum(case p.side when 'debit' then p.amount_minor else -p.amount_minor end) as change,
        min(p.effective_at) as first, max(p.effective_at) as last
    from ledger.account_balance b join ledger.posting p on p.tenant_id = $1 and p.mode = $2
        and p.book = $3 and p.account = b.account and p.currency = b.currency
        and p.account_seq <= 1024 * (b.last_seq / 1024)
    where b.tenant_id = $1 and b.mode = $2 and b.book = $3 and b.last_seq >= 1024
    group by p.account, p.currency, 3
), span as (
    select account, currency, 'hour' as span, starts_at, change, first, last from hour
    union all
    select account, currency, 'month', date_trunc('month', starts_at, 'UTC'), sum(change),
        min(first), max(last)
    from hour group by account, currency, 4
)
select count(*) from span s
full join (select * from ledger.posting_span
           where tenant_id = $1 and mode = $2 and book = $3) k
    using (account, currency, span, starts_at)
where (k.change_minor, k.effective_from, k.effective_to)
    is distinct from (s.change, s.first, s.last)
"""


async def wrong_sums(admin: Any, book: Sequence[Any]) -> list[str]:
    """What is wrong with the sums over hours and months, and with how many blocks have one."""
    found = []
    spans = await admin.fetchval(_SPANS, *book)
    if spans:
        found.append(f"{spans} sums over hours or months of postings are wrong")
    surplus = await admin.fetchval(_BLOCKS, *book)
    if surplus:
        found.append(
            f"{abs(surplus)} sums over blocks of postings too {'many' if surplus > 0 else 'few'}"
        )
    return found
