"""Statements of Stripe accounts: asked for, kept part by part, and proved whole by their digest."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.contracts.envelope import Envelope
from libs.contracts.ledger import StatementRequested
from libs.contracts.stripe_sync import StatementDigest, StripeStatement
from libs.db.pool import Row, Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.ledger import breaks, store_statements

log = structlog.get_logger()

ANSWERED_WITHIN = timedelta(hours=3)
"""stripe_sync gives a statement up long before."""
ASKED_MAX, ASKED_WITHIN = 10, timedelta(hours=1)
"""Statements that callers of one tenant may ask for, in one mode."""


class TooManyError(Exception):
    """The tenant has asked for as many statements as it may; it may again after `wait`."""

    def __init__(self, wait: timedelta) -> None:
        self.wait = wait
        super().__init__(f"again in {wait}")


async def ask(
    tx: Tx,
    account: str,
    listed_from: datetime,
    listed_to: datetime,
    *,
    requested_by: str,
    now: datetime,
) -> UUID:
    """Ask for a statement as a caller: the one of the same span that is under way is joined.

    Raises:
        TooManyError: each is a list of Stripe's, and up to 100,000 lines that are kept for a week.
    """
    await store_statements.lock_asking(tx)
    under_way = await store_statements.under_way(
        tx, account, listed_from, listed_to, since=now - ANSWERED_WITHIN
    )
    if under_way is not None:
        return under_way
    asked_at = await store_statements.asked_since(
        tx, now - ASKED_WITHIN, but_by=breaks.ITSELF, limit=ASKED_MAX
    )
    if len(asked_at) == ASKED_MAX:
        raise TooManyError(asked_at[-1] + ASKED_WITHIN - now)
    return await request(tx, account, listed_from, listed_to, requested_by=requested_by, now=now)


async def request(
    tx: Tx,
    account: str,
    listed_from: datetime,
    listed_to: datetime,
    *,
    requested_by: str,
    now: datetime,
) -> UUID:
    """Ask for an account's statement of a time; its parts come by `StripeStatement`."""
    statement_id = new_id()
    await store_statements.insert(
        tx,
        statement_id,
        account,
        listed_from,
        listed_to,
        requested_by=requested_by,
        requested_at=now,
    )
    fact = StatementRequested(
        statement_id=statement_id, account=account, listed_from=listed_from, listed_to=listed_to
    )
    emit(tx, fact, effective_at=now)
    return statement_id


async def take_part(tx: Tx, event: Envelope[StripeStatement]) -> None:
    """Keep a part; with the last one the statement is complete, or contradicts itself."""
    fact = event.data
    await store_statements.insert(
        tx,
        fact.statement_id,
        fact.account,
        fact.listed_from,
        fact.listed_to,
        requested_by=None,
        requested_at=event.occurred_at,
    )
    if await store_statements.lock(tx, fact.statement_id) != "requested":
        return
    if fact.error is not None:
        await store_statements.end(tx, fact.statement_id, "failed", fact.error)
        return
    if fact.part < 1 or not await store_statements.insert_part(tx, fact):
        return
    if fact.part == 1:
        balances = [balance.model_dump(mode="json") for balance in fact.balances]
        await store_statements.note_listed(tx, fact, balances)
    parts = await store_statements.parts_of(tx, fact.statement_id)
    if len(parts) < max(part["parts"] for part in parts):
        return
    contradiction = await _contradiction(tx, fact.statement_id, parts)
    if contradiction is not None:
        log.error("statement_contradictory", statement=str(fact.statement_id), reason=contradiction)
    state = "complete" if contradiction is None else "contradictory"
    await store_statements.end(tx, fact.statement_id, state, contradiction)


async def _contradiction(tx: Tx, statement_id: UUID, parts: Sequence[Row]) -> str | None:
    """What is wrong with a statement whose parts are all here."""
    names = ("parts", "line_count", "payout_count", "digest")
    if len({tuple(part[name] for name in names) for part in parts}) > 1:
        return "its parts are of different statements"
    if [part["part"] for part in parts] != list(range(1, len(parts) + 1)):
        return "its parts are not numbered from one on"
    digest, line_count = StatementDigest(), 0
    for part in parts:
        # A statement may have hundreds of parts: one is held at a time, and others go on meanwhile.
        lines = await store_statements.lines_of(tx, statement_id, part["part"])
        digest.add(lines)
        line_count += len(lines)
    payouts = await store_statements.payouts_of(tx, statement_id)
    digest.add(payouts)
    if (line_count, len(payouts)) != (parts[0]["line_count"], parts[0]["payout_count"]):
        return "lines or payouts are missing, or there are too many"
    if digest.hexdigest() != parts[0]["digest"]:
        return "its digest does not hold"
    return None
