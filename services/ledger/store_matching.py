"""SQL of the two sides of a reconciliation: gathered, then read by reference."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode


@dataclass(frozen=True)
class Run:
    """Whose items are gathered and matched.

    Attributes:
        tenant_id: the owner of the Stripe account.
        book: where its movements are booked; those of the platform's account in the books of all
            tenants.
    """

    tenant_id: UUID
    mode: Mode
    id: UUID
    account: str
    book: Book

    @property
    def of_tenant(self) -> UUID | None:
        """The only tenant that has entries of the account; None: any may."""
        return self.tenant_id if self.book == "tenant" else None


async def see_all(tx: Tx) -> None:
    """Go on as the maintenance role, which sees the books of all tenants."""
    await tx.execute("set local role sluice_ledger_maintenance")


async def see_own(tx: Tx) -> None:
    """Go on as the service itself."""
    await tx.execute("reset role")


def first_moment(at: datetime) -> datetime:
    """The whole millisecond from which on entries are gathered."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def first_id(at: datetime) -> UUID:
    """No entry that was booked since has a lower id: they begin with their milliseconds."""
    millis = (first_moment(at) - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
    return UUID(int=max(millis, 0) << 80)


async def gather_lines(
    tx: Tx, run: Run, statement_id: UUID, payment_kinds: Collection[str], after: int, parts: int
) -> int:
    """Enter the lines of some parts of a statement; a payment's charge is its reference."""
    return await tx.execute(
        """
        insert into reconciliation_item (tenant_id, mode, reconciliation_id, side, item, currency,
            reference, moved_minor, moved_at, kind, gross_minor, fee_minor)
        select tenant_id, mode, $3, 'stripe', stripe_balance_transaction_id, currency,
            case when kind = any($5::text[]) then coalesce(source_id, stripe_balance_transaction_id)
                else stripe_balance_transaction_id end,
            net_minor, created_at, kind, amount_minor, fee_minor
        from statement_line
        where tenant_id = $1 and mode = $2 and statement_id = $4 and part > $6 and part <= $6 + $7
        on conflict do nothing
        """,
        run.tenant_id,
        run.mode,
        run.id,
        statement_id,
        list(payment_kinds),
        after,
        parts,
    )


_ENTRIES = """
    with page as (
        select e.tenant_id, e.id, e.source_key, e.booked_at,
            substring(e.source_key from '^(?:reversal:)*[a-z_]+:' || $4 || ':([^:]+)') as reference,
            e.source_key ~ ('^(?:reversal:)*repair:' || $4 || ':') as repairs,
            e.source_key ~ '^(?:reversal:)*repair:[^:]+:[^:]+:adjust:' as adjusts
        from journal_entry e
        where e.mode = $2 and e.book = $5 and e.id > $6 {scope}
        order by e.id limit $10
    ), moved as (
        select page.tenant_id, page.id, page.source_key, page.booked_at, page.reference, p.currency,
            sum(case p.account when $7 then minor else 0 end) as moved_minor,
            sum(case p.account when $8 then -minor else 0 end)
                * (not page.adjusts)::integer as suspense_minor
        from page
        join posting p on p.tenant_id = page.tenant_id and p.mode = $2 and p.book = $5
            and p.entry_id = page.id
        cross join lateral (
            select case p.side when 'debit' then p.amount_minor else -p.amount_minor end) s(minor)
        group by page.tenant_id, page.id, page.source_key, page.booked_at, page.reference,
            page.repairs, page.adjusts, p.currency
        having page.repairs or bool_or(p.account = $7)
    ), entered as (
        insert into reconciliation_item (tenant_id, mode, reconciliation_id, side, item, currency,
            reference, moved_minor, suspense_minor, moved_at, entry_tenant_id, book, source_key)
        select $1, $2, $3, 'ledger', m.id::text, m.currency,
            coalesce(listed.reference, seen.reference, m.reference, m.source_key),
            m.moved_minor, m.suspense_minor, m.booked_at, m.tenant_id, $5, m.source_key
        from moved m
        left join lateral (
            select i.reference from reconciliation_item i
            where i.tenant_id = $1 and i.mode = $2 and i.reconciliation_id = $3
                and i.side = 'stripe' and i.item = m.reference
            order by i.currency limit 1) listed on true
        left join lateral (
            select k.reference from listed_movement k
            where k.tenant_id = $1 and k.mode = $2 and k.account = $4
                and k.stripe_balance_transaction_id = m.reference limit 1) seen on true
        on conflict do nothing returning item
    )
    select (select count(*) from page) as read, (select count(distinct item) from entered) as entered,
        (select id from page order by id desc limit 1) as last_id, $9::uuid as of_tenant
"""
"""Each reference is looked up by its own key: of what was gathered just now the planner knows nothing. The
order that is asked for, and that sorting is to be avoided, tell it which index is meant."""

_ENTRIES_OF_ONE = _ENTRIES.format(scope="and e.tenant_id = $9")
_ENTRIES_OF_ALL = _ENTRIES.format(scope="")


async def gather_entries(
    tx: Tx, run: Run, clearing: str, suspense: str, after: UUID, limit: int
) -> Row:
    """Enter what the next entries of the books moved on the account; as the maintenance role.

    Ids are of the time of booking. An entry stands with the movement that its source key names, or,
    where that is a payment's balance transaction, with the payment.

    Returns:
        `read` entries up to `last_id`, of which `entered` concern the account.
    """
    await tx.execute("set local enable_sort = off")
    row = await tx.fetchrow(
        _ENTRIES_OF_ALL if run.of_tenant is None else _ENTRIES_OF_ONE,
        run.tenant_id,
        run.mode,
        run.id,
        run.account,
        run.book,
        after,
        clearing,
        suspense,
        run.of_tenant,
        limit,
    )
    assert row is not None, "it counts"
    await tx.execute("set local enable_sort = on")
    return row


async def compare(tx: Tx, run: Run, after: str, limit: int) -> list[Row]:
    """The next references in their order: whether their sums agree, and Stripe lists them."""
    return await tx.fetch(
        """
        with page as (
            select distinct reference from reconciliation_item
            where tenant_id = $1 and mode = $2 and reconciliation_id = $3 and reference > $4
            order by reference limit $5
        ), sums as (
            select i.reference, i.currency,
                sum(case i.side when 'stripe' then i.moved_minor else -i.moved_minor end)
                    as difference,
                sum(i.suspense_minor) as suspense,
                count(*) filter (where i.side = 'stripe') as lines,
                count(*) filter (where i.side = 'ledger') as entries,
                bool_or(i.gross_minor <> 0) as moves
            from reconciliation_item i
            where i.tenant_id = $1 and i.mode = $2 and i.reconciliation_id = $3
                and i.reference > $4 and i.reference <= (select max(reference) from page)
            group by i.reference, i.currency
        )
        select reference, bool_and(difference = 0 and suspense = 0)
                and (sum(lines) = 0 or sum(entries) > 0 or not coalesce(bool_or(moves), false))
                as agrees,
            sum(lines) > 0 as listed
        from sums group by reference order by reference
        """,
        run.tenant_id,
        run.mode,
        run.id,
        after,
        limit,
    )


async def items_of(tx: Tx, run: Run, references: Sequence[str]) -> list[Row]:
    """Both sides of some references, with the time of those that an earlier statement listed."""
    return await tx.fetch(
        """
        select i.reference, i.side, i.item, i.currency, i.moved_minor, i.suspense_minor, i.moved_at,
            i.kind, i.gross_minor, i.fee_minor, i.entry_tenant_id, i.book, i.source_key,
            (select min(k.created_at) from listed_movement k where k.tenant_id = $1 and k.mode = $2
                and k.account = $5 and k.reference = i.reference) as seen_at
        from reconciliation_item i
        where i.tenant_id = $1 and i.mode = $2 and i.reconciliation_id = $3
            and i.reference = any($4::text[])
        order by i.reference, i.moved_at, i.item
        """,
        run.tenant_id,
        run.mode,
        run.id,
        list(references),
        run.account,
    )


async def remember_listed(tx: Tx, run: Run, references: Sequence[str]) -> None:
    """Keep for ever that Stripe listed these movements."""
    await tx.execute(
        """
        insert into listed_movement (tenant_id, mode, account, stripe_balance_transaction_id,
            reference, created_at)
        select tenant_id, mode, $4, item, reference, moved_at from reconciliation_item
        where tenant_id = $1 and mode = $2 and reconciliation_id = $3 and side = 'stripe'
            and reference = any($5::text[])
        on conflict do nothing
        """,
        run.tenant_id,
        run.mode,
        run.id,
        run.account,
        list(references),
    )


async def forget_items(tx: Tx, run: Run, limit: int) -> int:
    """Drop items of a run that has come to its end; how many that were."""
    return await tx.execute(
        """
        delete from reconciliation_item where ctid = any(array(
            select ctid from reconciliation_item
            where tenant_id = $1 and mode = $2 and reconciliation_id = $3 limit $4))
        """,
        run.tenant_id,
        run.mode,
        run.id,
        limit,
    )


async def payouts_that_differ(
    tx: Tx,
    run: Run,
    statement_id: UUID,
    *,
    arrived_before: Any,
    complete_from: datetime,
    ours_from: datetime | None,
) -> list[Row]:
    """Payouts whose balance transaction, arrival or contents are not as they should be.

    `overdue`: not at the bank, days after it was expected. `listed_minor`: what its balance
    transaction moved. `made_of_minor`: what left with it, where Stripe says so and all of it is in
    the statement.

    Args:
        arrived_before: the day by which payouts expected earlier must have arrived.
        complete_from: what left with payouts made since then is in the statement as a whole.
        ours_from: payouts made before are left out.
    """
    return await tx.fetch(
        """
        select * from (
            select p.stripe_payout_id, p.amount_minor, p.currency, p.status, p.arrival_on,
                l.stripe_balance_transaction_id, -l.amount_minor as listed_minor,
                l.currency as listed_currency, coalesce(l.created_at, p.arrival_on) as created_at,
                p.status in ('pending', 'in_transit') and p.arrival_on < $4 as overdue,
                case when l.created_at >= $5 then (
                    select sum(c.net_minor) from statement_line c
                    where c.tenant_id = $1 and c.mode = $2 and c.statement_id = $3
                        and c.payout_id = p.stripe_payout_id
                        and c.stripe_balance_transaction_id <> l.stripe_balance_transaction_id)
                    end::bigint as made_of_minor
            from statement_payout p
            left join statement_line l on l.tenant_id = $1 and l.mode = $2 and l.statement_id = $3
                and l.stripe_balance_transaction_id = p.stripe_balance_transaction_id
            where p.tenant_id = $1 and p.mode = $2 and p.statement_id = $3) as payout
        where (overdue or listed_minor <> amount_minor or listed_currency <> currency
                or made_of_minor <> amount_minor)
            and ($6::timestamptz is null or created_at >= $6)
        order by stripe_payout_id
        """,
        run.tenant_id,
        run.mode,
        statement_id,
        arrived_before,
        complete_from,
        ours_from,
    )


async def sums(tx: Tx, run: Run) -> dict[str, dict[str, int]]:
    """What both sides moved, by side and currency."""
    rows = await tx.fetch(
        """
        select side, currency, sum(moved_minor)::bigint as minor from reconciliation_item
        where tenant_id = $1 and mode = $2 and reconciliation_id = $3 group by side, currency
        """,
        run.tenant_id,
        run.mode,
        run.id,
    )
    found: dict[str, dict[str, int]] = {"stripe": {}, "ledger": {}}
    for row in rows:
        found[row["side"]][row["currency"]] = row["minor"]
    return found


async def opening_balances(tx: Tx, run: Run, clearing: str, before: datetime) -> dict[str, int]:
    """What was booked before a time on the account's clearing accounts, by currency.

    As the maintenance role. Blocks of postings that lie before the time as a whole are added up
    unread, the others read by number (`offset 0`; see `store_accounts.balances_at`).
    """
    rows = await tx.fetch(
        """
        with held as (
            select a.* from book_chain c
            join account_balance a on a.tenant_id = c.tenant_id and a.mode = c.mode
                and a.book = c.book and a.account = $3
            where c.mode = $1 and c.book = $2 and ($4::uuid is null or c.tenant_id = $4)
        ), part as (
            select a.currency, b.change_minor as minor
            from held a join posting_block b using (tenant_id, mode, book, account, currency)
            where b.booked_to < $5
            union all
            select a.currency, p.minor
            from held a join posting_block b using (tenant_id, mode, book, account, currency)
            cross join lateral (
                select case p.side when 'debit' then p.amount_minor else -p.amount_minor end as minor
                from posting p where p.tenant_id = a.tenant_id and p.mode = a.mode
                    and p.book = a.book and p.account = a.account and p.currency = a.currency
                    and p.account_seq between b.block * 1024 + 1 and b.block * 1024 + 1024
                    and p.booked_at < $5 offset 0) p
            where b.booked_to >= $5 and b.booked_from < $5
            union all
            select a.currency, p.minor
            from held a cross join lateral (
                select case p.side when 'debit' then p.amount_minor else -p.amount_minor end as minor
                from posting p where p.tenant_id = a.tenant_id and p.mode = a.mode
                    and p.book = a.book and p.account = a.account and p.currency = a.currency
                    and p.account_seq > 1024 * (a.last_seq / 1024) and p.booked_at < $5
                offset 0) p
        )
        select currency, sum(minor)::bigint as net_minor from part group by currency
        """,
        run.mode,
        run.book,
        clearing,
        run.of_tenant,
        before,
    )
    return {row["currency"]: row["net_minor"] for row in rows}
