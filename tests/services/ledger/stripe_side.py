"""Stripe's side of a reconciliation: what it lists of an account, and a run played to its end."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from ledger.facts import Tenant
from libs.clock import utc_now
from libs.contracts.envelope import Envelope, Mode, wrap
from libs.contracts.ledger import StatementRequested, TellTransactionsAgain
from libs.contracts.stripe_sync import (
    StatementBalance,
    StatementLine,
    StatementPayout,
    StripeStatement,
    statement_digest,
)
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.testing.memory_log import MemoryLog
from services.ledger import reconciling, store_breaks, store_reconciliations
from services.ledger.reconciling_sides import Terms
from services.ledger.store_breaks import Wanted

TERMS = Terms(
    every=timedelta(days=1), window=timedelta(days=30), settles_in=timedelta(0), repairs=False
)
LINES_PER_PART = 7


@dataclass
class StripeSide:
    """A Stripe account: its movements, payouts and balance, and who told of them.

    Attributes:
        owner: whose account it is.
        payer: under whom its money is told; on the platform's account not its owner.
        lost: facts that Stripe moved and nobody told, by their transaction or charge.
        unlisted_minor: what Stripe holds and never lists.
        ours_from: since when the account is connected.
    """

    account: str
    owner: UUID
    payer: Tenant
    log: MemoryLog
    mode: Mode = "test"
    lines: list[StatementLine] = field(default_factory=list)
    payouts: list[StatementPayout] = field(default_factory=list)
    lost: dict[str, Envelope[Any]] = field(default_factory=dict)
    unlisted_minor: int = 0
    ours_from: datetime | None = None
    counted: int = 0

    @property
    def told(self) -> dict[str, Any]:
        """What facts say of the account."""
        tenants = "platform" if self.account == "platform" else "tenant"
        return {"account": self.account, "collected_by": tenants}

    def number(self) -> str:
        """The next number of an object."""
        self.counted += 1
        return f"{self.account}{self.counted}"

    def pay(
        self,
        amount_minor: int,
        fee_minor: int = 0,
        *,
        currency: str = "EUR",
        told_minor: int | None = None,
        told_fee_minor: int | None = None,
        told_currency: str | None = None,
        untold: Sequence[str] = (),
        invoice: str | None = None,
        listed: bool = True,
    ) -> str:
        """A payment; its charge.

        Args:
            told_minor, told_fee_minor, told_currency: as its facts have it, where they are wrong.
            invoice: Stripe's id of the invoice that it pays.
            untold: which facts are not told: `payment`, `transaction`.
            listed: whether Stripe lists it.
        """
        number = self.number()
        charge, transaction = f"ch_{number}", f"txn_{number}"
        payment = self.payer.payment(
            amount_minor if told_minor is None else told_minor,
            stripe_charge_id=charge,
            stripe_invoice_id=invoice,
            currency=told_currency or currency,
            **self.told,
        )
        moved = self.payer.transaction(
            "charge",
            amount_minor,
            fee_minor if told_fee_minor is None else told_fee_minor,
            stripe_balance_transaction_id=transaction,
            source_id=charge,
            currency=told_currency or currency,
            **self.told,
        )
        for name, key, event in (
            ("payment", charge, payment),
            ("transaction", transaction, moved),
        ):
            if name in untold:
                self.lost[key] = event
            else:
                self.log.publish(event)
        if listed:
            self.enlist("charge", transaction, amount_minor, fee_minor, currency, charge)
        return charge

    def move(
        self,
        kind: str,
        amount_minor: int,
        *,
        currency: str = "EUR",
        told_minor: int | None = None,
        told_currency: str | None = None,
        told: bool = True,
        listed: bool = True,
        source_id: str | None = None,
    ) -> str:
        """A movement that is no payment; its balance transaction."""
        transaction = f"txn_{self.number()}"
        moved = self.payer.transaction(
            kind,
            amount_minor if told_minor is None else told_minor,
            stripe_balance_transaction_id=transaction,
            source_id=source_id,
            currency=told_currency or currency,
            **self.told,
        )
        if told:
            self.log.publish(moved)
        else:
            self.lost[transaction] = moved
        if listed:
            self.enlist(kind, transaction, amount_minor, 0, currency, source_id)
        return transaction

    def enlist(
        self,
        kind: str,
        transaction: str,
        amount_minor: int,
        fee_minor: int,
        currency: str,
        source_id: str | None,
    ) -> None:
        """Have Stripe list a movement, made two days ago."""
        created_at = utc_now() - timedelta(days=2, seconds=-self.counted)
        self.lines.append(
            StatementLine(
                stripe_balance_transaction_id=transaction,
                kind=kind,
                source_id=source_id,
                amount_minor=amount_minor,
                fee_minor=fee_minor,
                net_minor=amount_minor - fee_minor,
                currency=currency,
                created_at=created_at,
                available_at=created_at,
            )
        )

    def pay_out(
        self,
        amount_minor: int,
        *,
        status: str = "paid",
        said_minor: int | None = None,
        made_of: Sequence[str] = (),
        arrival_on: date | None = None,
        told: bool = True,
    ) -> str:
        """A payout; its id.

        Args:
            said_minor: what the payout itself says, where that is another amount.
            made_of: charges that left with it.
        """
        payout = f"po_{self.number()}"
        transaction = self.move("payout", -amount_minor, source_id=payout, told=told)
        self.payouts.append(
            StatementPayout(
                stripe_payout_id=payout,
                stripe_balance_transaction_id=transaction,
                amount_minor=amount_minor if said_minor is None else said_minor,
                currency="EUR",
                status=status,
                arrival_on=arrival_on or utc_now().date(),
            )
        )
        left = {*made_of, payout} if made_of else set()
        self.lines = [
            line.model_copy(update={"payout_id": payout}) if line.source_id in left else line
            for line in self.lines
        ]
        return payout

    def delete(self, charge: str) -> None:
        """Have Stripe list a payment no more."""
        self.lines = [line for line in self.lines if line.source_id != charge]

    def tell_lost(self) -> None:
        """Tell what the ledger has asked for again, as stripe_sync would."""
        for request in self.log.events(TellTransactionsAgain):
            if request.data.account == self.account:
                for key in (*request.data.transactions, *request.data.charges):
                    lost = self.lost.pop(key, None)
                    if lost is not None:
                        self.log.publish(lost)

    def statement(self, request: Envelope[StatementRequested]) -> list[StripeStatement]:
        """What Stripe lists, in parts."""
        wanted = request.data
        lines = [
            line for line in self.lines if wanted.listed_from <= line.created_at < wanted.listed_to
        ]
        entries: list[Any] = [*lines, *self.payouts]
        chunks = [
            entries[at : at + LINES_PER_PART] for at in range(0, len(entries), LINES_PER_PART)
        ] or [[]]
        held: dict[str, int] = {"EUR": self.unlisted_minor}
        for line in self.lines:
            held[line.currency] = held.get(line.currency, 0) + line.net_minor
        balances = tuple(
            StatementBalance(currency=currency, available_minor=minor - 1, pending_minor=1)
            for currency, minor in sorted(held.items())
        )
        return [
            StripeStatement(
                statement_id=wanted.statement_id,
                account=self.account,
                listed_from=wanted.listed_from,
                listed_to=wanted.listed_to,
                part=part,
                parts=len(chunks),
                line_count=len(lines),
                payout_count=len(self.payouts),
                digest=statement_digest(lines, self.payouts),
                lines=tuple(each for each in chunk if isinstance(each, StatementLine)),
                payouts=tuple(each for each in chunk if isinstance(each, StatementPayout)),
                balances=balances if part == 1 else (),
                listed_at=utc_now(),
                ours_from=self.ours_from,
            )
            for part, chunk in enumerate(chunks, 1)
        ]

    async def begin(
        self,
        ledger: Database,
        listed_from: datetime | None = None,
        listed_to: datetime | None = None,
    ) -> UUID:
        """Begin a run, with Stripe's answer on its way."""
        await self.log.settle()
        now = utc_now()
        async with ledger.tenant(self.owner, self.mode) as tx:
            run_id = await reconciling.start(
                tx,
                self.account,
                listed_from or now - TERMS.window,
                listed_to or now,
                requested_by=None,
                now=now,
            )
        await self.log.settle()
        request = self.log.events(StatementRequested)[-1]
        for part in self.statement(request):
            self.log.publish(
                wrap(
                    part,
                    tenant_id=self.owner,
                    mode=self.mode,
                    source="stripe_sync",
                    effective_at=now,
                )
            )
        await self.log.settle()
        return run_id

    async def reconcile(self, ledger: Database, terms: Terms = TERMS) -> dict[str, Any]:
        """A run from its beginning to its end; its row."""
        run_id = await self.begin(ledger)
        while await reconciling.advance(ledger, self.owner, self.mode, run_id, terms, utc_now()):
            pass
        await self.log.settle()
        async with ledger.tenant(self.owner, self.mode) as tx:
            row = await store_reconciliations.find(tx, run_id)
        assert row is not None
        assert row["state"] == "completed", row["error"]
        return dict(row)

    async def breaks(self, ledger: Database, *states: str) -> list[dict[str, Any]]:
        """The account's breaks in some states, or all."""
        wanted = Wanted(account=self.account, states=states or None)
        async with ledger.tenant(self.owner, self.mode) as tx:
            return await store_breaks.list_breaks(tx, self.mode, self.owner, wanted, None, 1_000)

    async def found(self, ledger: Database, *states: str) -> dict[str, str]:
        """The kind of each break by its reference."""
        return {each["reference"]: each["kind"] for each in await self.breaks(ledger, *states)}


def settling(minutes: int) -> Terms:
    """Terms under which what is newer than this may still be on its way."""
    return replace(TERMS, settles_in=timedelta(minutes=minutes))


def own_account(log: MemoryLog) -> StripeSide:
    """A tenant's own account."""
    acme = Tenant()
    return StripeSide("acct_acme", acme.id, acme, log)


def platforms_account(log: MemoryLog) -> StripeSide:
    """The platform's account, on which tenants pay."""
    return StripeSide("platform", PLATFORM_TENANT_ID, Tenant(), log)
