"""SQL of rebuilds: the runs, and the comparison of a shadow with the live books."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode
from services.ledger.store_shadow import SHADOW

SAMPLES_MAX = 20
COMPARE_SECONDS = 300.0
CHAIN_PAGE = 5_000


@dataclass(frozen=True)
class Run:
    """A rebuild to be worked on."""

    tenant_id: UUID
    mode: Mode
    id: UUID
    attempts: int


async def add_run(tx: Tx, run_id: UUID, at: datetime) -> None:
    """Enter a run of the tenant in scope."""
    await tx.execute(
        """
        insert into ledger_rebuild (tenant_id, mode, id, state, requested_at)
        values ($1, $2, $3, 'waiting', $4)
        """,
        tx.tenant_id,
        tx.mode,
        run_id,
        at,
    )


async def find_run(tx: Tx, run_id: UUID) -> Row | None:
    """A run of the tenant in scope."""
    return await tx.fetchrow(
        "select * from ledger_rebuild where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        run_id,
    )


async def open_run(tx: Tx) -> Row | None:
    """The run of the tenant in scope that has not ended."""
    return await tx.fetchrow(
        "select * from ledger_rebuild where tenant_id = $1 and mode = $2 "
        "and state in ('waiting', 'running')",
        tx.tenant_id,
        tx.mode,
    )


async def claim(database: Database, now: datetime, left_before: datetime) -> Run | None:
    """The oldest run that waits, or that its worker left; it is this worker's now."""
    async with database.maintenance() as tx:
        row = await tx.fetchrow(
            """
            update ledger_rebuild r set state = 'running', worked_at = $1, records_read = 0,
                attempts = r.attempts + 1
            from (
                select tenant_id, mode, id from ledger_rebuild
                where state = 'waiting' or (state = 'running' and worked_at < $2)
                order by requested_at limit 1 for update skip locked) next
            where r.tenant_id = next.tenant_id and r.mode = next.mode and r.id = next.id
            returning r.tenant_id, r.mode, r.id, r.attempts
            """,
            now,
            left_before,
        )
    return None if row is None else Run(*row)


async def note(database: Database, run: Run, read: int, expected: int, at: datetime) -> None:
    """How far a run is, unless another worker has it by now."""
    async with database.tenant(run.tenant_id, run.mode) as tx:
        await tx.execute(
            """
            update ledger_rebuild set records_read = $4, records_expected = $5, worked_at = $6
            where tenant_id = $1 and mode = $2 and id = $3 and attempts = $7
                and state = 'running'
            """,
            run.tenant_id,
            run.mode,
            run.id,
            read,
            expected,
            at,
            run.attempts,
        )


async def end(
    database: Database,
    run: Run,
    state: str,
    at: datetime,
    *,
    found: Mapping[str, Any] | None = None,
    error: str | None = None,
) -> None:
    """A run has come to its end, unless another worker has it by now."""
    async with database.tenant(run.tenant_id, run.mode) as tx:
        await tx.execute(
            """
            update ledger_rebuild set state = $4, ended_at = $5, found = $6, error = $7
            where tenant_id = $1 and mode = $2 and id = $3 and attempts = $8
                and state = 'running'
            """,
            run.tenant_id,
            run.mode,
            run.id,
            state,
            at,
            found,
            error,
            run.attempts,
        )


async def count_differences(tx: Tx) -> int:
    """In how many places the last run that compared, of each tenant and mode, differs; as maintenance."""
    count: int = await tx.fetchval(
        """
        select coalesce(sum(jsonb_array_length(r.found -> 'faults') + (
            select sum((c.value ->> 'only_live')::bigint + (c.value ->> 'only_rebuilt')::bigint)
            from jsonb_each(r.found -> 'compared') c)), 0)::bigint
        from ledger_rebuild r
        where r.state = 'different' and not exists (
            select from ledger_rebuild later
            where later.tenant_id = r.tenant_id and later.mode = r.mode and later.id > r.id
                and later.state in ('equal', 'different'))
        """
    )
    return count


async def live_fences(tx: Tx, topics: Sequence[str], partition: int) -> dict[str, int]:
    """How far these topics are booked in what this transaction sees; 0 where nothing is."""
    rows = await tx.fetch(
        f"select topic, next_offset from {tx.service}.fence "  # noqa: S608 - the service's own name
        "where consumer = $1 and topic = any($2::text[]) and partition = $3",
        tx.service,
        list(topics),
        partition,
    )
    return dict.fromkeys(topics, 0) | {row["topic"]: row["next_offset"] for row in rows}


async def live_parked(tx: Tx, topics: Sequence[str]) -> str | None:
    """A topic on which records of the tenant in scope wait, not booked."""
    topic: str | None = await tx.fetchval(
        f"select topic from {tx.service}.parked_key "  # noqa: S608 - the service's own name
        "where consumer = $1 and key = $2 and topic = any($3::text[]) order by topic limit 1",
        tx.service,
        str(tx.tenant_id),
        list(topics),
    )
    return topic


async def live_commands(tx: Tx, topic: str) -> list[Row]:
    """What the tenant in scope told on the ledger's own topic, and the shadow has not read there.

    Commands are booked with the very commit that tells of them, before they are on the topic.
    """
    return await tx.fetch(
        f"select o.event_type, o.payload, o.created_at from {tx.service}.outbox o "  # noqa: S608
        "where o.tenant_id = $1 and o.topic = $2 and not exists "
        f"(select from {SHADOW}.inbox i where i.event_id = o.event_id) order by o.id",
        tx.tenant_id,
        topic,
    )


_SAME_FACTS = """
with recursive live as (
    select e.book, e.source_key, e.id, encode(e.content_hash, 'hex') as content_hash,
        coalesce(t.true_effective_at, e.effective_at) as effective_at, e.booked_at, e.rule,
        e.rule_version, e.reverses
    from {live}.journal_entry e left join {live}.late_entry t on t.tenant_id = e.tenant_id
        and t.mode = e.mode and t.book = e.book and t.entry_id = e.id
    where e.tenant_id = $1 and e.mode = $2
), rebuilt as (
    select e.book, e.source_key, e.id, encode(e.content_hash, 'hex') as content_hash,
        coalesce(t.true_effective_at, e.effective_at) as effective_at, e.booked_at, e.rule,
        e.rule_version, e.reverses
    from {shadow}.journal_entry e left join {shadow}.late_entry t on t.tenant_id = e.tenant_id
        and t.mode = e.mode and t.book = e.book and t.entry_id = e.id
    where e.tenant_id = $1 and e.mode = $2
), other_version as (
    select l.book, l.source_key, l.id, l.content_hash = r.content_hash as same
    from live l join rebuilt r using (book, source_key) where l.rule_version <> r.rule_version
), excused as (
    select book, source_key, id from other_version
    union
    select l.book, l.source_key, l.id from live l
    join excused x on x.book = l.book and x.id = l.reverses
)
"""
"""Entries of both sides, each at the time at which its fact held: whether a month was closed when it
was booked depends on the order of booking. `excused` are those that another version of a rule made,
and what takes them back: they are compared by their being there alone."""

_ENTRIES = f"""
{_SAME_FACTS}, compared_live as (
    select * from live l where not exists (
        select from excused x where x.book = l.book and x.source_key = l.source_key)
), compared_rebuilt as (
    select * from rebuilt r where not exists (
        select from excused x where x.book = r.book and x.source_key = r.source_key)
), only_live as (select * from compared_live except select * from compared_rebuilt),
only_rebuilt as (select * from compared_rebuilt except select * from compared_live)
select (select count(*) from live) as live, (select count(*) from rebuilt) as rebuilt,
    (select count(*) from only_live) as only_live,
    (select count(*) from only_rebuilt) as only_rebuilt,
    array(select l::text from only_live l order by book, source_key limit {SAMPLES_MAX})
        as live_rows,
    array(select r::text from only_rebuilt r order by book, source_key limit {SAMPLES_MAX})
        as rebuilt_rows,
    (select count(*) from other_version) as other_versions,
    (select count(*) from other_version where not same) as other_contents
"""  # noqa: S608 - of our own words only

_BALANCES = f"""
{_SAME_FACTS}, compared_live as (
    select book, account, currency, debit_minor::numeric, credit_minor::numeric, last_seq::numeric
    from {{live}}.account_balance where tenant_id = $1 and mode = $2
), moved as (
    select book, account, currency, debit_minor::numeric, credit_minor::numeric, last_seq::numeric
    from {{shadow}}.account_balance where tenant_id = $1 and mode = $2
    union all
    select p.book, p.account, p.currency, {{sums}}
    from excused x join rebuilt r using (book, source_key)
    join {{shadow}}.posting p on p.tenant_id = $1 and p.mode = $2 and p.book = r.book
        and p.entry_id = r.id
    union all
    select p.book, p.account, p.currency, {{added}}
    from excused x join {{live}}.posting p on p.tenant_id = $1 and p.mode = $2 and p.book = x.book
        and p.entry_id = x.id
), compared_rebuilt as (
    select book, account, currency, sum(debit_minor) as debit_minor,
        sum(credit_minor) as credit_minor, sum(last_seq) as last_seq
    from moved group by book, account, currency having sum(last_seq) <> 0
), only_live as (select * from compared_live except select * from compared_rebuilt),
only_rebuilt as (select * from compared_rebuilt except select * from compared_live)
select (select count(*) from compared_live) as live,
    (select count(*) from compared_rebuilt) as rebuilt,
    (select count(*) from only_live) as only_live,
    (select count(*) from only_rebuilt) as only_rebuilt,
    array(select l::text from only_live l order by book, account, currency limit {SAMPLES_MAX})
        as live_rows,
    array(select r::text from only_rebuilt r order by book, account, currency
        limit {SAMPLES_MAX}) as rebuilt_rows
"""  # noqa: S608 - of our own words only

_SIDES = """case p.side when 'debit' then {sign}p.amount_minor else 0 end,
    case p.side when 'credit' then {sign}p.amount_minor else 0 end, {sign}1"""

COMPARED: Mapping[str, str] = {
    "journal_entry": _ENTRIES,
    "account_balance": _BALANCES,
}
"""By table, how both sides are compared: facts and what was booked for them; closing balances.

A balance is rebuilt as if entries of another version of a rule were the live ones. Numbers of the
chain and running balances follow from the order of booking, which topics do not have among each
other: `faults_of` checks them within each book.
"""


async def compare(tx: Tx, run: Run, table: str) -> dict[str, Any]:
    """How many rows each side has, how many are on one side only, and the first of those."""
    sql = COMPARED[table].format(
        live=tx.service,
        shadow=SHADOW,
        sums=_SIDES.format(sign="-"),
        added=_SIDES.format(sign=""),
    )
    row = await tx.connection.fetchrow(sql, run.tenant_id, run.mode, timeout=COMPARE_SECONDS)
    return dict(row)


_FOLD = """
select coalesce((array_agg(said order by said))[:20], '{{}}') from (
    select concat_ws(' ', $3::text, coalesce(b.account, f.account), coalesce(b.currency, f.currency))
        || ': ' || case
        when f.account is null then 'a balance without postings'
        when b.account is null then 'postings without a balance'
        when f.misnumbered then 'its postings are not numbered one by one'
        when f.misbalanced then 'a running balance is not the sum of the postings up to it'
        else 'its balance is not the sum of its postings' end as said
    from (
        select account, currency, debit_minor, credit_minor, last_seq
        from {schema}.account_balance where tenant_id = $1 and mode = $2 and book = $3) b
    full join (
        select account, currency, count(*) as postings,
            coalesce(sum(amount_minor) filter (where side = 'debit'), 0) as debit_minor,
            coalesce(sum(amount_minor) filter (where side = 'credit'), 0) as credit_minor,
            bool_or(account_seq <> seq) as misnumbered,
            bool_or(balance_after_minor <> balance) as misbalanced
        from (
            select p.*, row_number() over up_to as seq,
                sum(case side when 'debit' then amount_minor else -amount_minor end)
                    over up_to as balance
            from {schema}.posting p where tenant_id = $1 and mode = $2 and book = $3
            window up_to as (partition by account, currency order by account_seq)) p
        group by account, currency) f using (account, currency)
    where b.account is null or f.account is null or f.misnumbered or f.misbalanced
        or (b.debit_minor, b.credit_minor, b.last_seq)
            is distinct from (f.debit_minor, f.credit_minor, f.postings)
) as wrong
"""

_LINKS = """
select max(chain_seq) as last_seq,
    coalesce((array_agg(chain_seq order by chain_seq) filter (where chain_seq <> expected
        or chain_hash <> link(coalesce(previous, decode(repeat('00', 32), 'hex')), chain_seq, content)
        ))[:20], '{{}}') as broken
from (
    select e.chain_seq, e.chain_hash, lag(e.chain_hash) over chain as previous,
        coalesce(lag(e.chain_seq) over chain, $4) + 1 as expected,
        entry_text(e.tenant_id, e.mode, e.book, e.id, e.source_key, e.content_hash,
            e.effective_at, e.booked_at, e.causation_id, e.rule, e.rule_version, e.reverses,
            (select string_agg(posting_text(p.account, p.currency, p.account_seq, p.side,
                p.amount_minor, p.balance_after_minor), E'\\n' order by p.line)
             from {schema}.posting p where p.tenant_id = e.tenant_id and p.mode = e.mode
                 and p.book = e.book and p.entry_id = e.id)) as content
    from {schema}.journal_entry e where e.tenant_id = $1 and e.mode = $2 and e.book = $3
        and e.chain_seq >= $4 and e.chain_seq <= $4 + $5
    window chain as (order by e.chain_seq)
) as linked where chain_seq > $4
"""


async def faults_of_accounts(tx: Tx, run: Run, book: Book, schema: str) -> list[str]:
    """What does not hold of a book's accounts: numbers, running balances, balances.

    Args:
        schema: of the live book, or of the shadow.
    """
    faults: list[str] = await tx.connection.fetchval(
        _FOLD.format(schema=schema),
        run.tenant_id,
        run.mode,
        book,
        timeout=COMPARE_SECONDS,
    )
    return faults


async def check_links(
    tx: Tx, run: Run, book: Book, schema: str, after: int
) -> tuple[int, list[int]]:
    """The next stretch of a book's chain: its last number, 0 at the end, and those that do not fit."""
    page = await tx.connection.fetchrow(
        _LINKS.format(schema=schema),
        run.tenant_id,
        run.mode,
        book,
        after,
        CHAIN_PAGE,
        timeout=COMPARE_SECONDS,
    )
    return page["last_seq"] or 0, page["broken"]


async def last_link(tx: Tx, run: Run, book: Book, schema: str) -> int:
    """The number that the head of a book's chain says; 0 where nothing is booked."""
    seq: int | None = await tx.fetchval(
        f"select last_seq from {schema}.book_chain "  # noqa: S608 - one of two words of our own
        "where tenant_id = $1 and mode = $2 and book = $3",
        run.tenant_id,
        run.mode,
        book,
    )
    return seq or 0


async def set_aside(tx: Tx) -> int:
    """How many records no version of a rule could book in the shadow."""
    count: int = await tx.fetchval(
        f"select count(*) from {SHADOW}.dead_letter"  # noqa: S608 - a constant
    )
    return count
