"""Breaks: what a run found, what became of it, and what people decide about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from libs.contracts.ledger import BreakFound, BreakResolved, TellTransactionsAgain
from libs.db.pool import Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.ledger import store_breaks, store_reconciliations
from services.ledger.matching import Finding, Proposal
from services.ledger.store_breaks import Change

Json = dict[str, Any]

ITSELF = "ledger"
"""Who decided, where nobody did."""

LOOKED_AT_AGAIN_AFTER = timedelta(minutes=15)
"""What is repaired shows by then."""

TOLD_AT_ONCE_MAX = 400
"""Movements that one request names."""


@dataclass(frozen=True)
class Finder:
    """The run that found something.

    Attributes:
        repairs: have what is missing told again at once, the first time.
        settles_in: how long a repair may take to show.
    """

    run_id: UUID
    account: str
    now: datetime
    started_at: datetime
    repairs: bool
    settles_in: timedelta


async def take_findings(tx: Tx, finder: Finder, findings: Sequence[Finding]) -> int:
    """Enter what a run found, each break once however often it is found; how many are new.

    What somebody has let be stays so until its amounts change. What was repaired and is found again
    after the time a repair takes is a break again.
    """
    if not findings:
        return 0
    known = {
        (each["kind"], each["reference"]): each
        for each in await store_breaks.known(
            tx, finder.account, [(each.kind, each.reference) for each in findings]
        )
    }
    written, changes, told = [], [], []
    new = 0
    for finding in findings:
        before = known.get((finding.kind, finding.reference))
        after, change = _found(finder, finding, before)
        written.append(after)
        if change is None:
            continue
        changes.append(Change(after["id"], change, finder.now, detail=_detail(finding)))
        if change == "found":
            new += 1
        if _may_be_told(finder, finding, before):
            told.append(after)
        elif after["state"] in ("open", "proposed"):
            emit(tx, _told(after), effective_at=finder.now)
    await store_breaks.write(tx, written)
    await store_breaks.add_changes(tx, changes)
    if told:
        await _repair_by_telling(tx, finder, told)
    return new


def _found(finder: Finder, finding: Finding, before: Json | None) -> tuple[Json, str | None]:
    """The row of a break that was found, and what has happened to it; None: nothing new."""
    proposal = finding.proposal
    as_found = {
        "currency": finding.currency,
        "stripe_minor": finding.stripe_minor,
        "ledger_minor": finding.ledger_minor,
        "last_found_at": finder.now,
        "reconciliation_id": finder.run_id,
        "transactions": list(finding.transactions),
        "entries": [str(each) for each in finding.entries],
        "proposal": proposal.model_dump(mode="json") if proposal else None,
    }
    unsettled = {"state": "proposed" if proposal else "open", "accepted_at": None}
    if before is None:
        return {
            "id": new_id(),
            "account": finder.account,
            "kind": finding.kind,
            "reference": finding.reference,
            "occurred_at": finding.occurred_at,
            "found_at": finder.now,
            "times_found": 1,
            "owner": None,
            "reason": None,
            "resolved_at": None,
        } | as_found | unsettled, "found"
    after = before | as_found | {"times_found": before["times_found"] + 1}
    amounts = ("currency", "stripe_minor", "ledger_minor")
    same = all(before[name] == after[name] for name in amounts)
    match before["state"]:
        case "resolved":
            reopened = {"found_at": finder.now, "resolved_at": None, "reason": None}
            return after | unsettled | reopened, "found_again"
        case "ignored" if not same:
            return after | unsettled | {"reason": None}, "changed"
        case "accepted" if not _may_still_be_repaired(finder, before, same=same):
            return after | unsettled, "found_again"
        case "open" | "proposed" if not same:
            return after | unsettled, "changed"
    return after, None


def _may_still_be_repaired(finder: Finder, before: Json, *, same: bool) -> bool:
    """Whether an accepted break may be found: its repair is under way, or there was none to do."""
    if (before["proposal"] or {}).get("action") == "acknowledge":
        return same
    accepted_at: datetime = before["accepted_at"]
    return accepted_at + finder.settles_in > finder.started_at


def _may_be_told(finder: Finder, finding: Finding, before: Json | None) -> bool:
    """Whether a break is repaired without anybody: only by having facts told, and once.

    The rules book what is told under the very source keys they would have had, and nothing that is
    booked already: it cannot do harm.
    """
    tells = finding.proposal is not None and finding.proposal.action == "tell_again"
    return finder.repairs and tells and before is None


async def _repair_by_telling(tx: Tx, finder: Finder, breaks: Sequence[Json]) -> None:
    proposals = [proposal for each in breaks if (proposal := proposal_of(each)) is not None]
    tell_again(tx, finder.account, proposals, finder.now)
    await look_again(tx, finder.account, finder.now)
    accepted = [each | {"state": "accepted", "accepted_at": finder.now} for each in breaks]
    await store_breaks.write(tx, accepted)
    await store_breaks.add_changes(
        tx, [Change(each["id"], "accepted", finder.now, ITSELF, "tell_again") for each in breaks]
    )


def tell_again(tx: Tx, account: str, proposals: Sequence[Proposal], now: datetime) -> None:
    """Have stripe_sync tell facts of an account again that are not booked."""
    for start in range(0, len(proposals), TOLD_AT_ONCE_MAX):
        some = proposals[start : start + TOLD_AT_ONCE_MAX]
        fact = TellTransactionsAgain(
            request_id=new_id(),
            account=account,
            transactions=tuple(name for each in some for name in each.transactions),
            charges=tuple(name for each in some for name in each.charges),
            invoices=tuple(name for each in some for name in each.invoices),
        )
        emit(tx, fact, effective_at=now)


async def look_again(tx: Tx, account: str, now: datetime) -> None:
    """Have an account compared again when a repair shows."""
    await store_reconciliations.come_back(tx, account, now + LOOKED_AT_AGAIN_AFTER)


async def resolve(tx: Tx, breaks: Sequence[Json], run_id: UUID, now: datetime) -> None:
    """Breaks are no more."""
    resolved = [
        each | {"state": "resolved", "resolved_at": now, "reconciliation_id": run_id}
        for each in breaks
    ]
    await store_breaks.write(tx, resolved)
    await store_breaks.add_changes(
        tx, [Change(each["id"], "resolved", now, detail=each["state"]) for each in breaks]
    )
    for each in resolved:
        fact = BreakResolved(
            break_id=each["id"],
            account=each["account"],
            kind=each["kind"],
            reference=each["reference"],
            resolved_at=now,
        )
        emit(tx, fact, effective_at=now)


def proposal_of(found: Json) -> Proposal | None:
    """How a break can be repaired."""
    return Proposal.model_validate(found["proposal"]) if found["proposal"] else None


def _told(found: Json) -> BreakFound:
    return BreakFound(
        break_id=found["id"],
        account=found["account"],
        kind=found["kind"],
        reference=found["reference"],
        currency=found["currency"],
        stripe_minor=found["stripe_minor"],
        ledger_minor=found["ledger_minor"],
        found_at=found["found_at"],
    )


def _detail(finding: Finding) -> str:
    return f"Stripe {finding.stripe_minor}, books {finding.ledger_minor} {finding.currency}"
