"""Money facts as billing and stripe_sync tell them, and reading the books directly."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from cli.ledger_heads import Heads
from cli.ledger_proof import LedgerProof
from libs.contracts.billing import CreditGranted, InvoiceFinalized, InvoiceLine, InvoicePaid
from libs.contracts.envelope import Envelope, Fact, Mode, wrap
from libs.contracts.stripe_sync import BalanceTransactionRecorded, PaymentSucceeded
from libs.contracts.tenants import TenantCreated, TenantWentLive
from libs.db.pool import Cause, Tx
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.ledger import chart, posting
from services.ledger.entries import Entry, credit, debit, entry
from services.ledger.store import Booking

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


@dataclass
class Tenant:
    """A tenant whose money moves; each method makes the event that tells of it."""

    id: UUID = field(default_factory=new_id)
    customer_id: UUID = field(default_factory=new_id)
    mode: Mode = "test"
    days: int = 0

    def event(self, fact: Fact) -> Envelope[Any]:
        self.days += 1
        return wrap(
            fact,
            tenant_id=self.id,
            mode=self.mode,
            source="elsewhere",
            effective_at=START + timedelta(days=self.days),
        )

    def created(self) -> Envelope[Any]:
        fact = TenantCreated(
            name="Acme",
            slug="acme",
            tenant_type="organization",
            currency="EUR",
            locale="en",
            self_customer_id=self.customer_id,
        )
        return self.event(fact)

    def went_live(self) -> Envelope[Any]:
        """The tenant goes live; said of its live mode."""
        members = self.created().data.model_dump()
        self.mode = "live"
        return self.event(TenantWentLive(**members))

    def invoice(
        self,
        lines: dict[str, int],
        *,
        credits_minor: int = 0,
        tax_minor: int = 0,
        **changes: Any,
    ) -> Envelope[Any]:
        """An invoice with a line per kind; the credit used is a line of its own."""
        told = [_line(kind, amount) for kind, amount in lines.items()]
        if credits_minor:
            told.append(_line("credit", -credits_minor))
        subtotal = sum(lines.values())
        members: dict[str, Any] = {
            "invoice_id": new_id(),
            "number": "ACME-1",
            "customer_id": self.customer_id,
            "subscription_id": None,
            "billed_by": "platform",
            "currency": "EUR",
            "subtotal_minor": subtotal,
            "credits_applied_minor": credits_minor,
            "tax_minor": tax_minor,
            "total_minor": subtotal - credits_minor + tax_minor,
            "lines": tuple(told),
            "stripe_invoice_id": "in_1",
        }
        return self.event(InvoiceFinalized(**(members | changes)))

    def paid(self, invoice: Envelope[Any], paid_minor: int) -> Envelope[Any]:
        """Billing says that an invoice is paid."""
        final = invoice.data
        fact = InvoicePaid(
            invoice_id=final.invoice_id,
            number=final.number,
            customer_id=self.customer_id,
            currency=final.currency,
            paid_minor=paid_minor,
            stripe_invoice_id=final.stripe_invoice_id,
            billed_by=final.billed_by,
        )
        return self.event(fact)

    def payment(self, amount_minor: int, **changes: Any) -> Envelope[Any]:
        members: dict[str, Any] = {
            "payment_id": new_id(),
            "account": "platform",
            "collected_by": "platform",
            "customer_id": self.customer_id,
            "stripe_payment_intent_id": None,
            "stripe_charge_id": f"ch_{new_id().hex}",
            "stripe_invoice_id": "in_1",
            "amount_minor": amount_minor,
            "currency": "EUR",
            "paid_at": START,
        }
        return self.event(PaymentSucceeded(**(members | changes)))

    def transaction(
        self, kind: str, amount_minor: int, fee_minor: int = 0, **changes: Any
    ) -> Envelope[Any]:
        members: dict[str, Any] = {
            "account": "platform",
            "collected_by": "platform",
            "stripe_balance_transaction_id": f"txn_{new_id().hex}",
            "kind": kind,
            "source_id": None,
            "amount_minor": amount_minor,
            "fee_minor": fee_minor,
            "net_minor": amount_minor - fee_minor,
            "currency": "EUR",
            "created_at": START,
            "available_at": START,
        }
        return self.event(BalanceTransactionRecorded(**(members | changes)))

    def grant(self, amount_minor: int, **changes: Any) -> Envelope[Any]:
        members: dict[str, Any] = {
            "grant_id": new_id(),
            "customer_id": self.customer_id,
            "billed_by": "platform",
            "amount_minor": amount_minor,
            "currency": "EUR",
        }
        return self.event(CreditGranted(**(members | changes)))


def _line(kind: Any, amount_minor: int) -> InvoiceLine:
    return InvoiceLine(line_id=new_id(), kind=kind, description=kind, amount_minor=amount_minor)


def transfer(amount_minor: int, key: str, *, currency: str = "EUR") -> Entry:
    """Money from suspense to the bank: the plainest entry there is."""
    made = entry(
        "platform",
        key,
        "trial",
        [debit(chart.BANK, amount_minor, currency), credit(chart.SUSPENSE, amount_minor, currency)],
    )
    assert made is not None
    return made


async def book(
    tx: Tx, *entries: Entry, effective_at: datetime = START, booked_at: datetime = START
) -> list[Booking]:
    """Book entries of the tenant in scope in one call; those that were new."""
    return await posting.book(
        tx,
        [
            Booking(
                new_id(), tx.tenant_id, each, effective_at, booked_at, Cause(new_id(), new_id())
            )
            for each in entries
        ],
    )


async def snapshot(database: TestDatabase) -> dict[str, list[str]]:
    """Every row of the ledger's schema that a replay must leave alone."""
    moving = {"fence", "inbox", "outbox"}
    async with database.admin() as admin:
        tables = [
            row["tablename"]
            for row in await admin.fetch(
                "select tablename from pg_tables where schemaname='ledger'"
            )
        ]
        rows = {
            table: sorted(
                row["text"]
                for row in await admin.fetch(f"select t::text as text from ledger.{table} t")
            )
            for table in tables
            if table not in moving
        }
        sent = await admin.fetch("select event_id::text as id from ledger.outbox order by 1")
    return rows | {"outbox": [row["id"] for row in sent]}


async def net_balances(database: TestDatabase, *tenants: Tenant) -> dict[str, int]:
    """Debits less credits by `account currency`, as the balances say; zeros left out."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select account || ' ' || currency as name, sum(debit_minor - credit_minor)::bigint as net "
            "from ledger.account_balance where cardinality($1::uuid[]) = 0 "
            "or tenant_id = any($1::uuid[]) group by 1 order by 1",
            [tenant.id for tenant in tenants],
        )
    return {row["name"]: row["net"] for row in rows if row["net"]}


async def assert_sound(database: TestDatabase, *tenants: UUID) -> None:
    """Every invariant of the books, recomputed from the postings alone.

    Args:
        tenants: whose chains are followed; without any, everybody's.
    """
    async with database.admin() as admin:
        assert not await admin.fetch(
            "select from ledger.posting group by tenant_id, mode, book, entry_id, currency "
            "having sum(case side when 'debit' then amount_minor else -amount_minor end) <> 0"
        ), "an entry does not balance"
        assert not await admin.fetch(
            "select from ledger.journal_entry e where not exists (select from ledger.posting p "
            "where p.entry_id = e.id)"
        ), "an entry has no postings"
        assert not await admin.fetch(
            """
            select from (
                select *, row_number() over so_far as seq,
                    sum(case side when 'debit' then amount_minor else -amount_minor end)
                        over so_far as balance
                from ledger.posting
                window so_far as (partition by tenant_id, mode, book, account, currency
                                  order by account_seq)) p
            where seq <> account_seq or balance <> balance_after_minor
            """
        ), "a running balance or number is wrong"
        folded = """
            select tenant_id, mode, book, account, currency,
                sum(amount_minor) filter (where side = 'debit') as debit,
                sum(amount_minor) filter (where side = 'credit') as credit, count(*) as postings
            from ledger.posting group by 1, 2, 3, 4, 5
        """
        assert not await admin.fetch(
            f"""
            select from ledger.account_balance b full join ({folded}) f
                using (tenant_id, mode, book, account, currency)
            where b.debit_minor is distinct from coalesce(f.debit, 0)
                or b.credit_minor is distinct from coalesce(f.credit, 0)
                or b.last_seq is distinct from f.postings
            """
        ), "a stored balance is not the fold of its postings"
    assert await faults(database, None, *tenants) == []


async def faults(database: TestDatabase, heads: Heads | None = None, *tenants: UUID) -> list[str]:
    """What `sluice ledger verify` says of the books of some tenants, or of all."""
    told = heads or {}
    found = []
    async with database.admin() as first, database.admin() as second:
        proof = LedgerProof(first, second)
        for book_of in await proof.books(None, told):
            if not tenants or book_of.tenant_id in tenants:
                found.append(await proof.check(book_of, told, lambda _: None))
    return [fault for each in found for fault in each.faults]
