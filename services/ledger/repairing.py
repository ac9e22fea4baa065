"""What people decide about a break: repair it as proposed, let it be, or give it to somebody."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger import PostedLine
from libs.db.pool import Tx
from libs.db.tenant import Scope
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.ledger import breaks, chart, commands, reversal, store, store_breaks, store_reversals
from services.ledger.commands_asked import POST_RULE, AccountError, Command
from services.ledger.entries import Line, entry
from services.ledger.matching import REPAIR_KEY, Home, Proposal
from services.ledger.reversal import OTHER_SIDE
from services.ledger.store_breaks import Change

Json = dict[str, Any]


class NoSuchBreakError(LookupError):
    """The tenant has no such break."""


class SettledError(ValueError):
    """The break is resolved: there is nothing left to decide."""


class NothingProposedError(ValueError):
    """There is no proposal to accept."""


class AccountNeededError(ValueError):
    """It takes an account of the chart to say what the money is; the message says which."""


async def accept(tx: Tx, break_id: UUID, *, account: str | None, actor: str, now: datetime) -> Json:
    """Carry out what is proposed for a break of the tenant in scope; the break after it.

    Entries are booked at once, in the book they belong to. A break that was accepted before stays as
    it is: the next run tells whether it is repaired.

    Args:
        account: on which money in suspense belongs; for such breaks only.

    Raises:
        NoSuchBreakError, SettledError, NothingProposedError, AccountNeededError: see there.
        AlreadyReversedError: an entry to take back was taken back meanwhile.
        NoSuchEntryError: the proposal names an entry that its books do not have.
        OverrunError: an account would pass one of its bounds, or lose what is held of it.
    """
    found = await _locked(tx, break_id)
    if found["state"] == "accepted":
        return found
    proposal = breaks.proposal_of(found)
    if proposal is None:
        raise NothingProposedError
    counterpart = _counterpart(proposal, account)
    after: Json = {"action": proposal.action, "kind": found["kind"], "account": account}
    _audit(tx, found, "reconciliation_break.accepted", actor, after, now)
    await _carry_out(tx, found, proposal, counterpart, actor, now)
    await breaks.look_again(tx, found["account"], now)
    detail = proposal.action if account is None else f"{proposal.action} {account}"
    return await _change(
        tx,
        found | {"state": "accepted", "accepted_at": now},
        Change(break_id, "accepted", now, actor, detail),
    )


async def ignore(tx: Tx, break_id: UUID, *, reason: str, actor: str, now: datetime) -> Json:
    """Let a break of the tenant in scope be, as long as its amounts stay; the break after it.

    Raises:
        NoSuchBreakError, SettledError: see there.
    """
    found = await _locked(tx, break_id)
    _audit(tx, found, "reconciliation_break.ignored", actor, {"reason": reason}, now)
    return await _change(
        tx,
        found | {"state": "ignored", "reason": reason},
        Change(break_id, "ignored", now, actor, reason),
    )


async def assign(tx: Tx, break_id: UUID, *, owner: str | None, actor: str, now: datetime) -> Json:
    """Give a break of the tenant in scope to somebody, or to nobody; the break after it.

    Raises:
        NoSuchBreakError, SettledError: see there.
    """
    found = await _locked(tx, break_id)
    _audit(tx, found, "reconciliation_break.assigned", actor, {"owner": owner}, now)
    return await _change(
        tx, found | {"owner": owner}, Change(break_id, "assigned", now, actor, owner)
    )


async def _locked(tx: Tx, break_id: UUID) -> Json:
    found = await store_breaks.find(tx, break_id, lock=True)
    if found is None:
        raise NoSuchBreakError
    if found["state"] == "resolved":
        raise SettledError
    return found


async def _change(tx: Tx, after: Json, change: Change) -> Json:
    await store_breaks.write(tx, [after])
    await store_breaks.add_changes(tx, [change])
    return after


def _audit(
    tx: Tx,
    found: Json,
    action: str,
    actor: str,
    after: Json,
    now: datetime,
) -> None:
    changed = ConfigurationChanged(
        action=action, actor=actor, object_id=public_id("break", found["id"]), after=after
    )
    emit(tx, changed, effective_at=now)


def _counterpart(proposal: Proposal, account: str | None) -> chart.Account | None:
    """The account that money in suspense belongs on."""
    if proposal.action != "clear_suspense":
        if account is not None:
            raise AccountNeededError("Only money in suspense is moved to an `account`.")
        return None
    if account is None:
        raise AccountNeededError("Name the `account` of the chart that the money belongs on.")
    try:
        named = chart.named(account)
    except chart.UnknownAccountError as error:
        raise AccountNeededError(f"{error}") from None
    if named == chart.SUSPENSE or named.code.startswith("asset:stripe_clearing:"):
        raise AccountNeededError("The money is to leave suspense, and stays at Stripe.")
    return named


async def _carry_out(
    tx: Tx,
    found: Json,
    proposal: Proposal,
    counterpart: chart.Account | None,
    actor: str,
    now: datetime,
) -> None:
    match proposal.action:
        case "tell_again":
            breaks.tell_again(tx, found["account"], [proposal], now)
        case "reverse":
            reason = f"{found['kind']} {found['reference']}"
            for home, entries in _by_home(proposal):
                async with _in_scope_of(tx, home):
                    for each in entries:
                        await reversal.reverse(
                            tx, each, reason=reason, actor=actor, effective_at=now, now=now
                        )
        case "adjust":
            await _book(tx, found, proposal, _lines(proposal.postings), actor, now)
        case "clear_suspense":
            assert counterpart is not None, "it was named"
            out = _lines(proposal.postings)
            into = [
                Line(counterpart, OTHER_SIDE[line.side], line.amount_minor, line.currency)
                for line in out
            ]
            await _book(tx, found, proposal, [*out, *into], actor, now)
        case "acknowledge":
            pass


async def _book(
    tx: Tx, found: Json, proposal: Proposal, lines: Sequence[Line], actor: str, now: datetime
) -> None:
    """Book a repair. Its source key names the movement, so that the next run finds it there.

    Raises:
        AccountNeededError: the book has no such account.
    """
    assert proposal.book is not None, "a proposal to book says where"
    what = "adjust" if proposal.action == "adjust" else "clear"
    key = (
        f"{REPAIR_KEY}{found['account']}:{found['reference']}:{what}:{found['id']}:"
        f"{found['times_found']}"
    )
    repair = entry(proposal.book, key, POST_RULE, lines)
    assert repair is not None, "a break has a difference"
    async with _in_scope_of(tx, _home(proposal)):
        await store_reversals.lock_book(tx, repair.book)
        clearing = chart.clearing(found["account"])
        await store.open_accounts(tx, [(tx.tenant_id, repair.book, clearing)])
        command = Command(
            tenant_id=tx.tenant_id,
            mode=tx.mode,
            entry=repair,
            effective_at=now,
            is_dated=True,
            metadata={"break": public_id("break", found["id"])},
            actor=actor,
            is_audited=True,
        )
        (verdict,) = await commands.post(tx, repair.book, [[command]])
    if isinstance(verdict, AccountError):
        raise AccountNeededError(f"The book has no account `{verdict.account}` that takes it.")
    if isinstance(verdict, Exception):
        raise verdict


def _by_home(proposal: Proposal) -> list[tuple[Home, list[UUID]]]:
    """The entries of a proposal by their book, in the order in which books are locked."""
    by_home: dict[Home, list[UUID]] = defaultdict(list)
    homes = proposal.homes or (_home(proposal),) * len(proposal.entries)
    for home, each in zip(homes, proposal.entries, strict=True):
        by_home[home].append(each)
    return sorted(by_home.items(), key=lambda item: (item[0].tenant_id, item[0].book))


def _home(proposal: Proposal) -> Home:
    assert proposal.tenant_id is not None, "a proposal to book says whose book"
    assert proposal.book is not None, "and which"
    return Home(tenant_id=proposal.tenant_id, book=proposal.book)


@asynccontextmanager
async def _in_scope_of(tx: Tx, home: Home) -> AsyncGenerator[None, None]:
    """The tenant and book of the entries: what moves on the platform's account is in all books."""
    before = tx.scope
    await tx.enter(Scope((home.tenant_id,), tx.mode, (home.book,)))
    yield
    await tx.enter(before)


def _lines(postings: Sequence[PostedLine]) -> list[Line]:
    return [
        Line(chart.named(each.account), each.side, each.amount_minor, each.currency)
        for each in postings
    ]
