"""The books as Postgres has them, recomputed from their rows alone and held against told heads.

Everything is computed anew by the statements of this module, not by what the ledger's own schema
brings along: hashes of entries and of the chain, sums of entries, numbers and running balances of
accounts, stored balances, blocks and spans, types and sides of accounts, what holds have come to and
what they hold. Over several connections as much is computed at the same time, all of one moment.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from cli.ledger_heads import TOPIC, Heads
from cli.ledger_holds_proof import wrong_holds
from cli.ledger_sums_proof import wrong_sums
from libs.contracts.envelope import Mode
from libs.contracts.ledger import Book

PAGE_ENTRIES = 5_000
PAGE_ACCOUNTS = 500
PAGE_POSTINGS = 50_000
LAST = 2**63 - 1

Page = Sequence[Any]
"""What a statement asks for, beside the book."""


class NoSuchTenantError(LookupError):
    """No tenant has this id or slug."""


@dataclass(frozen=True)
class BookOfTenant:
    """A book that is checked, and how much there is of it."""

    tenant_id: UUID
    slug: str
    mode: Mode
    book: Book
    postings: int

    @property
    def key(self) -> tuple[UUID, Mode, Book]:
        """What its rows begin with."""
        return self.tenant_id, self.mode, self.book


@dataclass
class BookFinding:
    """What checking one book found.

    Attributes:
        entries, postings: that were checked.
        anchored_seq: the last entry up to which a told head proves the chain.
        faults: what is wrong, at most 100 of each kind; empty where the book holds.
    """

    tenant_id: str
    slug: str
    mode: str
    book: str
    entries: int = 0
    postings: int = 0
    anchored_seq: int = 0
    faults: list[str] = field(default_factory=list)


_BOOKS = """
select b.tenant_id, coalesce(t.slug, b.tenant_id::text) as slug, b.mode, b.book, b.postings
from (select tenant_id, mode, book, sum(last_seq)::bigint as postings
      from ledger.account_balance group by 1, 2, 3
      union all select tenant_id, mode, book, 0 from (
          select tenant_id, mode, book from ledger.book_chain
          union select t, m, b from unnest($2::uuid[], $3::text[], $4::text[]) as u(t, m, b)
          except select tenant_id, mode, book from ledger.account_balance) as without) b
left join tenants.tenant t on t.tenant_id = b.tenant_id
where $1::text is null or t.slug = lower($1) or b.tenant_id::text = lower($1)
order by slug, b.mode, b.book
"""

_PAGES = """
select chain_seq from (
    select chain_seq, row_number() over (order by chain_seq) as n from ledger.journal_entry
    where tenant_id = $1 and mode = $2 and book = $3) e
where n % $4 = 0 order by chain_seq
"""

_ENTRIES = """
with entry as materialized (
    select e.*, lag(chain_seq) over chain as previous_seq, lag(chain_hash) over chain as previous
    from (select * from ledger.journal_entry where tenant_id = $1 and mode = $2 and book = $3
              and chain_seq between $4 and $5) e
    window chain as (order by chain_seq)
), checked as (
    select e.chain_seq, l.postings, e.chain_hash, case
        when e.chain_seq <> coalesce(e.previous_seq, $4) + 1 then 'the entry before it is not there'
        when l.postings < 2 or l.last_line <> l.postings
            then 'postings are missing'
        when case when l.is_plain then l.difference <> 0 else exists (
                select from ledger.posting p where p.tenant_id = $1 and p.mode = $2
                    and p.book = $3 and p.entry_id = e.id group by p.currency
                having sum(case p.side when 'debit' then p.amount_minor else -p.amount_minor end)
                    <> 0) end
            then 'it does not balance'
        when not l.is_timed then 'its postings are of another time'
        when e.content_hash <> sha256(convert_to(concat('{"book":"', e.book, '","postings":[',
                l.json, '],"source_key":', to_json(e.source_key), '}'), 'UTF8'))
            then 'its postings do not fit the hash of its content'
        when e.chain_hash <> sha256(
                coalesce(e.previous, decode(repeat('00', 32), 'hex'))
                || convert_to(concat_ws(E'\\n', 'sluice.ledger.1', e.chain_seq, e.tenant_id, e.mode,
                    e.book, e.id, octet_length(e.source_key) || ':' || e.source_key,
                    encode(e.content_hash, 'hex'),
                    (extract(epoch from e.effective_at) * 1000000)::bigint,
                    (extract(epoch from e.booked_at) * 1000000)::bigint,
                    e.causation_id, octet_length(e.rule) || ':' || e.rule, e.rule_version,
                    coalesce(e.reverses::text, ''), l.text), 'UTF8'))
            then 'it does not fit its hash in the chain'
        end as fault
    from entry e cross join lateral (
        select count(*) as postings, max(p.line) as last_line,
            min(p.currency) = max(p.currency) as is_plain,
            sum(case p.side when 'debit' then p.amount_minor else -p.amount_minor end)
                as difference,
            bool_and(p.effective_at = e.effective_at and p.booked_at = e.booked_at) as is_timed,
            string_agg(concat_ws(' ', p.account, p.currency, p.account_seq, p.side,
                p.amount_minor, p.balance_after_minor), E'\\n' order by p.line) as text,
            string_agg(concat('["', p.account, '","', p.side, '",', p.amount_minor, ',"',
                p.currency, '"]'), ',' order by p.account collate "C", p.side collate "C",
                p.amount_minor, p.currency collate "C") as json
        from ledger.posting p where p.tenant_id = $1 and p.mode = $2 and p.book = $3
            and p.entry_id = e.id) l
    where e.chain_seq > $4
)
select count(*) as entries, coalesce(sum(postings), 0)::bigint as postings,
    max(chain_seq) as last_seq, (array_agg(chain_hash order by chain_seq desc))[1] as last_hash,
    coalesce((array_agg(concat('entry ', chain_seq, ': ', fault) order by chain_seq)
        filter (where fault is not null))[:100], '{}') as faults
from checked
"""

_ACCOUNTS = """
with line as (
    select account, currency, account_seq, balance_after_minor, effective_at, booked_at,
        case side when 'debit' then amount_minor else 0 end as debit,
        case side when 'credit' then amount_minor else 0 end as credit,
        row_number() over so_far as seq,
        sum(case side when 'debit' then amount_minor else -amount_minor end) over so_far as balance
    from ledger.posting
    where tenant_id = $1 and mode = $2 and book = $3 and account = any($4::text[])
    window so_far as (partition by account, currency order by account_seq
        rows unbounded preceding)
), block as (
    select account, currency, (account_seq - 1) / 1024 as block, count(*) as postings,
        sum(debit) as debit, sum(credit) as credit,
        min(account_seq) filter (where seq <> account_seq) as misnumbered,
        min(account_seq) filter (where balance <> balance_after_minor) as misbalanced,
        min(effective_at) as effective_from, max(effective_at) as effective_to,
        min(booked_at) as booked_from, max(booked_at) as booked_to
    from line group by account, currency, 3
), folded as (
    select k.account, k.currency, sum(k.postings)::bigint as postings, sum(k.debit) as debit,
        sum(k.credit) as credit, min(k.misnumbered) as misnumbered,
        min(k.misbalanced) as misbalanced,
        bool_or(k.postings = 1024 and (k.debit - k.credit, k.effective_from, k.effective_to,
            k.booked_from, k.booked_to) is distinct from (b.change_minor, b.effective_from,
            b.effective_to, b.booked_from, b.booked_to)
            or k.postings < 1024 and b.block is not null) as misblocked
    from block k left join ledger.posting_block b on b.tenant_id = $1 and b.mode = $2
        and b.book = $3 and b.account = k.account and b.currency = k.currency
        and b.block = k.block
    group by k.account, k.currency
), checked as (
    select coalesce(f.postings, 0) as postings, concat(a.account, ' ', a.currency, ': ', case
        when f.account is null then 'its postings are missing'
        when f.misnumbered is not null
            then 'the numbers of its postings have a hole at ' || f.misnumbered
        when f.misbalanced is not null
            then 'the running balance is wrong at posting ' || f.misbalanced
        when (a.debit_minor, a.credit_minor, a.last_seq) is distinct from
            (f.debit, f.credit, f.postings) then 'its balance is not the sum of its postings'
        when f.misblocked then 'the sums over its blocks of postings are wrong'
        end) as said
    from ledger.account_balance a left join folded f on f.account = a.account
        and f.currency = a.currency
    where a.tenant_id = $1 and a.mode = $2 and a.book = $3 and a.account = any($4::text[])
)
select coalesce(sum(postings), 0)::bigint as postings,
    coalesce((array_agg(said order by said) filter (where said not like '%: '))[:100], '{}')
        as faults
from checked
"""

CONTRA_ACCOUNTS = ("revenue:refunds", "expense:bad_debts_recovered", "expense:credits_expired")
"""Accounts whose normal side is the other one than their type's, beside `<type>:own_contra:…`."""

_CHART = """
select coalesce((array_agg(said order by said))[:100], '{}') from (
    select concat(b.account, ': ', case when a.code is null then 'the account is missing'
        else 'the account has another type or side than the chart' end) as said
    from (select distinct account from ledger.account_balance
          where tenant_id = $1 and mode = $2 and book = $3) b
    left join ledger.account a on a.tenant_id = $1 and a.mode = $2 and a.book = $3
        and a.code = b.account
    where (a.type, a.normal_side) is distinct from (split_part(b.account, ':', 1),
        case when (split_part(b.account, ':', 1) in ('asset', 'expense'))
            <> (b.account = any($4::text[]) or split_part(b.account, ':', 2) = 'own_contra')
            then 'debit' else 'credit' end)) wrong
"""


class LedgerProof:
    """One look at the books, as an administrator, over one or several connections."""

    def __init__(self, *connections: Any) -> None:
        self._connections = connections
        self._admin = connections[0]

    async def books(self, tenant: str | None, heads: Heads) -> list[BookOfTenant]:
        """The books of the tenant with this id or slug, or of all; those whose rows are gone, too.

        Raises:
            NoSuchTenantError: there is none, or nothing was ever booked for it.
        """
        told = [[key[part] for key in heads] for part in range(3)]
        rows = await self._admin.fetch(_BOOKS, tenant, *told)
        if tenant is not None and not rows:
            raise NoSuchTenantError
        return [BookOfTenant(**dict(row)) for row in rows]

    async def check(
        self, book: BookOfTenant, heads: Heads, progress: Callable[[int], None]
    ) -> BookFinding:
        """Recompute one book from its rows, as they are at one moment.

        Args:
            heads: that were told before this moment.
            progress: takes how many more postings were gone through; each is twice, by entry and
                by account.
        """
        found = BookFinding(str(book.tenant_id), book.slug, book.mode, book.book)
        async with self._one_moment():
            accounts = await self._account_pages(book)
            entries = await self._entry_pages(book)
            pages = [(_ACCOUNTS, page) for page in accounts] + [
                (_ENTRIES, page) for page in entries
            ]
            answers = await self._ask(book, pages, progress)
            await self._follow_chain(book, answers[len(accounts) :], found)
            await self._hold_against_heads(book, heads.get(book.key, {}), found)
            await self._fold_accounts(book, answers[: len(accounts)], found)
            found.faults += await self._admin.fetchval(_CHART, *book.key, list(CONTRA_ACCOUNTS))
            found.faults += await wrong_holds(self._admin, book.key)
            found.faults += await wrong_sums(self._admin, book.key)
        return found

    @asynccontextmanager
    async def _one_moment(self) -> AsyncGenerator[None, None]:
        """All connections see the rows as they are now, whatever is booked meanwhile."""
        async with AsyncExitStack() as stack:
            snapshot = None
            for connection in self._connections:
                transaction = connection.transaction(isolation="repeatable_read", readonly=True)
                await stack.enter_async_context(transaction)
                if snapshot is not None:
                    await connection.execute(f"set transaction snapshot '{snapshot}'")
                elif len(self._connections) > 1:
                    snapshot = await connection.fetchval("select pg_export_snapshot()")
                # Rows are many, whatever the planner knows of a table that has just grown.
                await connection.execute("set local enable_nestloop = off")
            yield

    async def _ask(
        self,
        book: BookOfTenant,
        pages: Sequence[tuple[str, Page]],
        progress: Callable[[int], None],
    ) -> list[Any]:
        """The answers about pages of a book, each asked over whichever connection is free."""
        answers: list[Any] = [None] * len(pages)
        left = iter(enumerate(pages))

        async def go_on(connection: Any) -> None:
            for at, (statement, page) in left:
                answers[at] = await connection.fetchrow(statement, *book.key, *page)
                progress(answers[at]["postings"])

        working = [asyncio.ensure_future(go_on(connection)) for connection in self._connections]
        try:
            await asyncio.gather(*working)
        finally:
            # No connection is left in the middle of a statement.
            for each in working:
                each.cancel()
            await asyncio.wait(working)
        return answers

    async def _entry_pages(self, book: BookOfTenant) -> list[Page]:
        """Stretches of the chain: each begins with the entry at which the one before ends."""
        ends = [
            row["chain_seq"] for row in await self._admin.fetch(_PAGES, *book.key, PAGE_ENTRIES)
        ]
        return list(zip([0, *ends], [*ends, LAST], strict=True))

    async def _account_pages(self, book: BookOfTenant) -> list[Page]:
        rows = await self._admin.fetch(
            "select account, sum(last_seq)::bigint as postings from ledger.account_balance "
            "where tenant_id = $1 and mode = $2 and book = $3 group by 1 order by 1",
            *book.key,
        )
        return [[page] for page in _pages([(row["account"], row["postings"]) for row in rows])]

    async def _follow_chain(
        self, book: BookOfTenant, pages: Sequence[Any], found: BookFinding
    ) -> None:
        last_seq, last_hash = 0, None
        for page in pages:
            if page["entries"]:
                found.entries += page["entries"]
                found.postings += page["postings"]
                found.faults += page["faults"]
                last_seq, last_hash = page["last_seq"], page["last_hash"]
        head = await self._admin.fetchrow(
            "select last_seq, last_hash from ledger.book_chain "
            "where tenant_id = $1 and mode = $2 and book = $3",
            *book.key,
        )
        if (head["last_seq"], head["last_hash"]) != (last_seq, last_hash) if head else last_seq:
            found.faults.append(f"the chain ends at entry {last_seq}, not where its head is")

    async def _hold_against_heads(
        self, book: BookOfTenant, heads: Mapping[int, frozenset[str]], found: BookFinding
    ) -> None:
        rows = await self._admin.fetch(
            "select chain_seq, encode(chain_hash, 'hex') as hash from ledger.journal_entry "
            "where tenant_id = $1 and mode = $2 and book = $3 and chain_seq = any($4::bigint[])",
            *book.key,
            list(heads),
        )
        there = {row["chain_seq"]: row["hash"] for row in rows}
        for seq in sorted(heads):
            if heads[seq] == {there.get(seq)}:
                found.anchored_seq = seq
                continue
            found.faults.append(
                f"entry {seq}: its head on {TOPIC} is another: up to it the chain was rewritten"
                if seq in there
                else f"entry {seq}: its head stands on {TOPIC} and the entry is not there"
            )
            return

    async def _fold_accounts(
        self, book: BookOfTenant, pages: Sequence[Any], found: BookFinding
    ) -> None:
        folded = 0
        for page in pages:
            folded += page["postings"]
            found.faults += page["faults"]
        there = await self._admin.fetchval(
            "select count(*) from ledger.posting where tenant_id = $1 and mode = $2 and book = $3",
            *book.key,
        )
        if folded != there:
            found.faults.append(f"{there - folded} postings are on accounts without a balance")
        if found.postings != there:
            found.faults.append(f"{there - found.postings} postings belong to no entry")


def _pages(accounts: Sequence[tuple[str, int]]) -> list[list[str]]:
    """Accounts that are checked at once: so many, or with so many postings."""
    pages: list[list[str]] = []
    postings = 0
    for account, count in accounts:
        if not pages or len(pages[-1]) == PAGE_ACCOUNTS or postings + count > PAGE_POSTINGS:
            pages.append([])
            postings = 0
        pages[-1].append(account)
        postings += count
    return pages
