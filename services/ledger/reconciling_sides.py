"""Both sides of a reconciliation: what Stripe lists and what the books hold, gathered and matched."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from libs.db.pool import Row, Tx
from services.ledger import breaks, chart, matching, store_matching
from services.ledger import store_reconciliations as store
from services.ledger.breaks import Finder
from services.ledger.matching import OF_PAYMENTS, Booked, Extent, Listed, Movement
from services.ledger.store_matching import Run

PARTS_AT_ONCE = 25
ENTRIES_AT_ONCE = 1_000
"""Should the planner err where tables were never analysed, no step comes to a statement's 20 s."""
MOVEMENTS_AT_ONCE = 2_000
ITEMS_DROPPED_AT_ONCE = 50_000


@dataclass(frozen=True)
class Terms:
    """How accounts are compared.

    Attributes:
        every: from one run of an account to the next.
        window: how far back each looks, further where a break is older.
        settles_in: what moved later may still be on its way to the other side.
        repairs: have what is missing in the books told again at once.
    """

    every: timedelta
    window: timedelta
    settles_in: timedelta
    repairs: bool


@dataclass(frozen=True)
class Work:
    """A run under way, its locked row, and the time."""

    run: Run
    row: Row
    terms: Terms
    now: datetime

    @property
    def extent(self) -> Extent:
        """What is compared."""
        return Extent(
            account=self.run.account,
            statement_from=self.row["statement_from"],
            listed_from=self.row["listed_from"],
            listed_to=self.row["listed_to"],
            due_before=self.row["requested_at"] - self.terms.settles_in,
            ours_from=self.row["ours_from"],
        )

    @property
    def finder(self) -> Finder:
        """Who finds breaks."""
        return Finder(
            run_id=self.run.id,
            account=self.run.account,
            now=self.now,
            started_at=self.row["started_at"],
            repairs=self.terms.repairs,
            settles_in=self.terms.settles_in,
        )


async def gather_lines(tx: Tx, work: Work) -> bool:
    """Enter what Stripe lists."""
    after = int(work.row["position"])
    entered = await store_matching.gather_lines(
        tx, work.run, work.row["statement_id"], OF_PAYMENTS, after, PARTS_AT_ONCE
    )
    await store.count(tx, work.run.id, lines=entered)
    if after + PARTS_AT_ONCE < work.row["parts"]:
        await store.move(tx, work.run.id, "lines", str(after + PARTS_AT_ONCE))
    else:
        first = store_matching.first_id(work.row["statement_from"])
        await store.move(tx, work.run.id, "entries", str(first))
    return True


async def gather_entries(tx: Tx, work: Work) -> bool:
    """Enter what the books hold."""
    async with seeing_all(tx):
        page = await store_matching.gather_entries(
            tx,
            work.run,
            chart.clearing(work.run.account).code,
            chart.SUSPENSE.code,
            UUID(work.row["position"]),
            ENTRIES_AT_ONCE,
        )
    await store.count(tx, work.run.id, entries=page["entered"])
    if page["read"] < ENTRIES_AT_ONCE:
        await store.move(tx, work.run.id, "matching")
    else:
        await store.move(tx, work.run.id, "entries", str(page["last_id"]))
    return True


async def match(tx: Tx, work: Work) -> bool:
    """Judge the next movements; those whose sums agree need no second look."""
    compared = await store_matching.compare(tx, work.run, work.row["position"], MOVEMENTS_AT_ONCE)
    odd = [row["reference"] for row in compared if not row["agrees"]]
    verdicts = [
        matching.judge(each, work.extent)
        for each in _movements(await store_matching.items_of(tx, work.run, odd))
    ]
    findings = [verdict.finding for verdict in verdicts if verdict.finding is not None]
    await breaks.take_findings(tx, work.finder, findings)
    unlisted: dict[str, int] = defaultdict(int, work.row["unlisted"])
    for verdict in verdicts:
        for currency, minor in verdict.unlisted.items():
            unlisted[currency] += minor
    await store.note_unlisted(tx, work.run.id, unlisted)
    await store_matching.remember_listed(
        tx, work.run, [row["reference"] for row in compared if row["listed"]]
    )
    await store.count(
        tx,
        work.run.id,
        matched=sum(row["agrees"] and row["listed"] for row in compared),
        waiting=sum(verdict.waits for verdict in verdicts),
        found=len(findings),
    )
    if len(compared) < MOVEMENTS_AT_ONCE:
        await store.move(tx, work.run.id, "ending")
    else:
        await store.move(tx, work.run.id, "matching", compared[-1]["reference"])
    return True


def _movements(items: Iterable[Row]) -> list[Movement]:
    """Both sides by reference."""
    listed: dict[str, list[Listed]] = defaultdict(list)
    booked: dict[str, list[Booked]] = defaultdict(list)
    seen: dict[str, datetime | None] = {}
    for item in items:
        reference = item["reference"]
        seen[reference] = item["seen_at"]
        if item["side"] == "stripe":
            listed[reference].append(
                Listed(
                    transaction=item["item"],
                    kind=item["kind"],
                    currency=item["currency"],
                    gross_minor=item["gross_minor"],
                    fee_minor=item["fee_minor"],
                    net_minor=item["moved_minor"],
                    created_at=item["moved_at"],
                )
            )
        else:
            booked[reference].append(
                Booked(
                    entry_id=UUID(item["item"]),
                    tenant_id=item["entry_tenant_id"],
                    book=item["book"],
                    source_key=item["source_key"],
                    currency=item["currency"],
                    moved_minor=item["moved_minor"],
                    suspense_minor=item["suspense_minor"],
                    booked_at=item["moved_at"],
                )
            )
    return [
        Movement(reference, tuple(listed[reference]), tuple(booked[reference]), seen_at)
        for reference, seen_at in seen.items()
    ]


async def drop_items(tx: Tx, work: Work) -> None:
    """Forget both sides: the run has come to its end."""
    while await store_matching.forget_items(tx, work.run, ITEMS_DROPPED_AT_ONCE):
        pass


@asynccontextmanager
async def seeing_all(tx: Tx) -> AsyncGenerator[None, None]:
    """The books of all tenants in sight, as the platform's account needs them."""
    await store_matching.see_all(tx)
    yield
    await store_matching.see_own(tx)
