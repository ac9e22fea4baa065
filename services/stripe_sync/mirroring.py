"""Putting what was fetched into the mirror, and saying what changed: many objects in one transaction.

Reading, claiming, writing and taking marks away are one statement each, however many objects there
are. What an object leads to besides (a payment, a refund) follows tenant by tenant.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.envelope import Fact
from libs.contracts.stripe_sync import PaymentFailed
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode, Scope
from libs.messaging.outbox import emit
from libs.observability.metrics import PAYMENTS_TOTAL
from libs.observability.tracing import extract, start_span
from services.stripe_sync import beginnings, store_marks, store_objects, store_payments
from services.stripe_sync.client import Json
from services.stripe_sync.fetching import Fetched, IncompleteError
from services.stripe_sync.money import MoneyFact, record_money
from services.stripe_sync.objects import (
    UNTOLD_FIELDS,
    UnreadableObjectError,
    account_fact,
    as_said_now,
    id_of,
    mirrored,
    named,
)
from services.stripe_sync.objects_invoices import invoice_fact, invoice_time, subscription_fact
from services.stripe_sync.objects_money import dispute_fact, payout_fact, refund_fact, with_loss
from services.stripe_sync.objects_payments import (
    charge_of,
    charge_within,
    failure_fact,
    of_an_intent,
    payment_behind,
    payment_of_charge,
    payment_of_intent,
)
from services.stripe_sync.owners import ATTEMPTS_BEFORE_GIVING_UP
from services.stripe_sync.payments import NO_ORIGIN, Origin, collected_by, settle
from services.stripe_sync.store_marks import Dirty
from services.stripe_sync.store_objects import ObjectRow, Owner
from services.stripe_sync.transactions import Movement, record_all

PAYMENTS = ("payment_intent", "charge")
"""What refunds and disputes refer to comes before them."""
GIVES_BACK = ("refund", "dispute")
NOBODYS = UUID(int=0)


@dataclass(frozen=True)
class Sighting:
    """An object as Stripe has it now, and whose it is.

    Attributes:
        fetched: None where Stripe has it no more.
        customer_id: of ours, or who stands in for a stranger; None while nobody is known who could.
        now: the owner's business time.
        origin: of a payment intent, or of a charge that has one; None while nobody has looked.
    """

    dirty: Dirty
    fetched: Fetched | None
    owner: Owner
    customer_id: UUID | None
    now: datetime
    origin: Origin | None = None

    @property
    def kind(self) -> str:
        """Stripe's type of the object."""
        return self.dirty.object_type

    @property
    def payer_id(self) -> UUID:
        """The customer of ours who pays.

        Raises:
            IncompleteError: the record of the account's holder is not here yet.
        """
        if self.customer_id is None:
            raise IncompleteError("nobody is known who could stand in for a stranger")
        return self.customer_id

    @property
    def is_payment(self) -> bool:
        """Whether it is what money comes in by."""
        return self.kind in PAYMENTS

    @property
    def payment_key(self) -> str | None:
        """Stripe's id of the payment that it is, or is about."""
        raw = self.fetched.raw if self.fetched else None
        if raw is None or self.kind not in (*PAYMENTS, *GIVES_BACK):
            return None
        if self.kind == "payment_intent":
            return self.dirty.object_id
        charge_id = self.dirty.object_id if self.kind == "charge" else id_of(raw.get("charge"))
        return id_of(raw.get("payment_intent")) or charge_id

    def parts(self) -> Iterator[tuple[str, str, Json | None]]:
        """(type, id, JSON) of everything to mirror: the object, and the charge of an intent."""
        raw = self.fetched.raw if self.fetched else None
        if self.kind == "charge" and raw is not None and of_an_intent(raw):
            # It is mirrored with its intent, but for an attempt that failed and others followed.
            if raw["status"] == "failed":
                yield self.kind, self.dirty.object_id, raw
            return
        yield self.kind, self.dirty.object_id, raw
        if raw is not None:
            yield from charge_within(self.kind, raw)


@dataclass
class Mirroring:
    """One transaction's work on the mirror of an account.

    Attributes:
        began_at: by tenant, since when the account is ours; None: it always was.
        late: what could not be done for an object, which keeps its mark.
    """

    tx: Tx
    account: str
    mode: Mode
    began_at: dict[UUID, datetime | None] = field(default_factory=dict)
    before: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    rows: dict[tuple[str, str], ObjectRow] = field(default_factory=dict)
    payments: dict[str, Json] = field(default_factory=dict)
    unanswered: dict[UUID, Json] = field(default_factory=dict)
    changed: dict[str, tuple[UUID, Json]] = field(default_factory=dict)
    booked: list[Movement] = field(default_factory=list)
    money: list[tuple[UUID, MoneyFact, Json]] = field(default_factory=list)
    marks: list[tuple[UUID, str, str]] = field(default_factory=list)
    late: list[tuple[Dirty, Exception]] = field(default_factory=list)

    async def run(self, sightings: Sequence[Sighting]) -> None:
        """Mirror the objects, say what changed, and take their marks away."""
        everybody = self._scope(sightings)
        await self.tx.enter(everybody)
        await self._read(sightings)
        for sighting in sorted(sightings, key=lambda each: not each.is_payment):
            with start_span(f"mirror {sighting.kind}", parent=extract(sighting.dirty.trace)):
                self._take(sighting)
        for tenant_id, fact, raw in self.money:
            await self.tx.enter(Scope((tenant_id,), self.mode))
            await record_money(self.tx, fact, raw)
        await self.tx.enter(everybody)
        await store_objects.write_objects(self.tx, self.account, self.rows.values())
        if self.changed:
            await store_payments.write_payments(self.tx, self.changed.values())
        await record_all(self.tx, self.account, self.booked)
        await self._mark_payments(sightings)
        late = {id(dirty) for dirty, _ in self.late}
        done = [sighting.dirty for sighting in sightings if id(sighting.dirty) not in late]
        await store_marks.clear_all(self.tx, self.account, done)

    async def _read(self, sightings: Sequence[Sighting]) -> None:
        """Claim the objects for their owners, and read what is known of them so far."""
        for tenant_id in {sighting.owner.tenant_id for sighting in sightings}:
            self.began_at[tenant_id] = await beginnings.ours_from(self.tx, tenant_id, self.account)
        parts = [(sighting, *part) for sighting in sightings for part in sighting.parts()]
        await store_objects.claim_all(
            self.tx,
            self.account,
            [(object_id, sighting.owner) for sighting, _, object_id, raw in parts if raw],
        )
        self.before = await store_objects.read_objects(
            self.tx,
            self.account,
            [(sighting.owner.tenant_id, kind, object_id) for sighting, kind, object_id, _ in parts],
        )
        keys = {
            (sighting.owner.tenant_id, sighting.payment_key)
            for sighting in sightings
            if sighting.payment_key is not None
        }
        if not keys:
            return
        self.payments = await store_payments.read_payments(
            self.tx, self.account, [(tenant_id, key) for tenant_id, key in sorted(keys) if key]
        )
        ours = [
            (sighting.owner.tenant_id, payment_id)
            for sighting in sightings
            if sighting.kind == "payment_intent"
            and sighting.fetched is not None
            and sighting.dirty.object_id not in self.payments
            and (payment_id := named(sighting.fetched.raw, "payment_id")) is not None
        ]
        if ours:
            self.unanswered = await store_payments.read_unanswered(self.tx, self.account, ours)

    def _scope(self, sightings: Sequence[Sighting]) -> Scope:
        tenants = {sighting.owner.tenant_id for sighting in sightings}
        tenants |= {tenant for sighting in sightings for tenant, _ in sighting.dirty.marks}
        return Scope(tuple(sorted(tenants)), self.mode)

    def _take(self, sighting: Sighting) -> None:
        """Mirror one object and all that follows; an odd one keeps its mark and holds up nobody."""
        try:
            if sighting.fetched is not None and sighting.is_payment:
                self._settle(sighting, sighting.fetched.raw)
            for kind, object_id, raw in sighting.parts():
                if raw is None:
                    self._mark_deleted(sighting, kind, object_id)
                else:
                    self._mirror(sighting, kind, object_id, raw)
        except (UnreadableObjectError, IncompleteError) as error:
            self.late.append((sighting.dirty, error))
            return
        if sighting.fetched is not None and sighting.fetched.incomplete is not None:
            self.late.append((sighting.dirty, IncompleteError(sighting.fetched.incomplete)))

    def _settle(self, sighting: Sighting, raw: Json) -> None:
        """Bring the payment of an intent or charge up to date, and what Stripe booked of it."""
        if sighting.kind == "charge" and of_an_intent(raw):
            return
        key, tenant_id = sighting.dirty.object_id, sighting.owner.tenant_id
        is_intent = sighting.kind == "payment_intent"
        before = self.payments.get(key)
        if before is None and is_intent:
            # The first that names a row of ours takes it.
            before = self.unanswered.pop(named(raw, "payment_id") or NOBODYS, None)
        charge = charge_of(raw) if is_intent else raw
        is_ours = not beginnings.paid_before(charge, self.began_at[tenant_id])
        after = settle(
            self.tx,
            self.account,
            payment_of_intent(raw) if is_intent else payment_of_charge(raw),
            before,
            sighting.payer_id,
            origin=sighting.origin if is_intent else NO_ORIGIN,
            effective_at=sighting.now,
            tenant_id=tenant_id,
            is_ours=is_ours,
        )
        if after is not None:
            self.payments[key] = after
            self.changed[key] = (tenant_id, after)
        booked = charge.get("balance_transaction") if charge else None
        if isinstance(booked, dict) and is_ours:
            self.booked.append(Movement(booked | {"source": charge}, sighting.owner, sighting.now))

    def _mirror(self, sighting: Sighting, kind: str, object_id: str, raw: Json) -> None:
        if (kind, object_id) in self.rows:
            return
        before = self.before.get((kind, object_id))
        version = before["version"] if before else 0
        said = before["fact"] if before else None
        fact = with_loss(self._fact(sighting, kind, raw, version + 1), said)
        fact_json = fact.model_dump(mode="json", exclude=UNTOLD_FIELDS) if fact else None
        changed = fact is not None and fact_json != as_said_now(fact, said)
        if isinstance(fact, PaymentFailed):
            changed = (
                said is None and not _had_failed(before) and (kind, object_id) not in self.rows
            )
        kept = mirrored(kind, raw)
        if before is not None and not changed and before["raw"] == kept:
            return
        self.rows[kind, object_id] = ObjectRow(
            sighting.owner.tenant_id,
            kind,
            object_id,
            kept,
            fact_json if changed else said,
            version + 1 if changed else version,
            bool(raw.get("deleted")),
            utc_now(),
        )
        if fact is not None and changed:
            self._tell(sighting, kind, raw, fact)

    def _tell(self, sighting: Sighting, kind: str, raw: Json, fact: Any) -> None:
        if kind in (*GIVES_BACK, "payout"):
            self.money.append((sighting.owner.tenant_id, fact, raw))
        if isinstance(fact, PaymentFailed):
            self.tx.after_commit.append(PAYMENTS_TOTAL.labels("failed", self.mode).inc)
        at = max(sighting.now, invoice_time(raw)) if kind == "invoice" else sighting.now
        emit(self.tx, fact, effective_at=at, tenant_id=sighting.owner.tenant_id)

    def _fact(self, sighting: Sighting, kind: str, raw: Json, version: int) -> Fact | None:
        """What is said of an object; nothing of those that are no customer's of ours."""
        account, customer_id = self.account, sighting.owner.customer_id
        if raw.get("deleted"):
            return None
        if kind == "account":
            return account_fact(raw, fetched_at=utc_now())
        if kind in ("charge", "refund", "dispute", "payout"):
            return self._money_fact(sighting, kind, raw, version)
        if customer_id is None or kind not in ("subscription", "invoice"):
            return None
        make = subscription_fact if kind == "subscription" else invoice_fact
        return make(raw, account=account, customer_id=customer_id, version=version)

    def _money_fact(self, sighting: Sighting, kind: str, raw: Json, version: int) -> Fact | None:
        account = self.account
        if kind == "charge":
            return failure_fact(
                raw,
                account=account,
                customer_id=sighting.payer_id,
                invoice_id=sighting.origin.invoice_id if sighting.origin else None,
            )
        if kind == "payout":
            collector = collected_by(account)
            return payout_fact(raw, account=account, collected_by=collector, version=version)
        return self._given_back(sighting, kind, raw, version)

    def _given_back(self, sighting: Sighting, kind: str, raw: Json, version: int) -> Fact:
        """What is said of a refund or a dispute, with the payment it is about.

        Raises:
            IncompleteError: that payment is on its way into the mirror.
        """
        payment = self.payments.get(sighting.payment_key or "")
        if payment is None and sighting.dirty.attempts < ATTEMPTS_BEFORE_GIVING_UP:
            tenant_id = sighting.owner.tenant_id
            self.marks += [(tenant_id, *behind) for behind in payment_behind(raw)]
            raise IncompleteError("its payment is not mirrored yet")
        make = refund_fact if kind == "refund" else dispute_fact
        return make(
            beginnings.without_moved_before(raw, self.began_at[sighting.owner.tenant_id]),
            account=self.account,
            collected_by=collected_by(self.account),
            customer_id=payment["customer_id"] if payment else sighting.payer_id,
            payment_id=payment["payment_id"] if payment else None,
            version=version,
        )

    def _mark_deleted(self, sighting: Sighting, kind: str, object_id: str) -> None:
        """What Stripe no longer has stays in the mirror, marked."""
        before = self.before.get((kind, object_id))
        if before is not None and not before["deleted"]:
            self.rows[kind, object_id] = ObjectRow(
                sighting.owner.tenant_id,
                kind,
                object_id,
                before["raw"],
                before["fact"],
                before["version"],
                True,
                utc_now(),
            )

    async def _mark_payments(self, sightings: Sequence[Sighting]) -> None:
        """Fetch the payments that objects lead to, unless they are known or here."""
        here = {each.dirty.object_id for each in sightings if each.is_payment}
        paying = {
            (sighting.owner.tenant_id, paid)
            for sighting in sightings
            for paid in (sighting.fetched.payments if sighting.fetched else ())
            if paid.payment_id not in here
        }
        marks = self.marks + [
            (sighting.owner.tenant_id, *found)
            for sighting in sightings
            for found in self._left_behind(sighting)
            if found[1] not in here
        ]
        if paying:
            unsettled = await store_payments.unsettled_payments(
                self.tx,
                self.account,
                [(tenant_id, paid.payment_id, paid.charge_id) for tenant_id, paid in paying],
            )
            marks += [
                (tenant_id, paid.kind, paid.payment_id)
                for tenant_id, paid in paying
                if paid.payment_id in unsettled
            ]
        await store_marks.mark_all(self.tx, self.account, marks)

    def _left_behind(self, sighting: Sighting) -> list[tuple[str, str]]:
        """(type, id) of the payment of a charge that came alone, or that was given back just now."""
        raw = sighting.fetched.raw if sighting.fetched else None
        if raw is None:
            return []
        if sighting.kind in GIVES_BACK:
            changed = (sighting.kind, sighting.dirty.object_id) in self.rows
            return payment_behind(raw) if changed else []
        alone = sighting.kind == "charge" and raw["status"] != "failed" and of_an_intent(raw)
        return payment_behind(raw) if alone else []


def _had_failed(before: Row | None) -> bool:
    return before is not None and before["raw"].get("status") == "failed"
