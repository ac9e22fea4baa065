"""Statements: what Stripe itself lists of an account, for the ledger to compare its books with.

Nothing of the mirror goes into them: comparing the ledger with what it was posted from would always
agree. All parts leave in one transaction.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.clock import from_unix, utc_now
from libs.contracts.envelope import Envelope, Mode
from libs.contracts.ledger import StatementRequested
from libs.contracts.stripe_sync import (
    StatementBalance,
    StatementLine,
    StatementPayout,
    StripeStatement,
    statement_digest,
)
from libs.db.pool import Cause, Database, Row, Tx
from libs.messaging.outbox import emit
from libs.money import from_stripe
from services.stripe_sync import beginnings, store_statements
from services.stripe_sync.client import (
    Json,
    StripeApi,
    StripeCallError,
    StripeRefusedError,
)
from services.stripe_sync.crew import Crew
from services.stripe_sync.identities import Identities
from services.stripe_sync.lease import leased
from services.stripe_sync.objects import id_of

log = structlog.get_logger()

ENTRIES_PER_PART = 400
PAGES_MAX = 1_000
"""Of lines, and of payouts: 100,000 of each. A longer statement must be asked for in pieces."""
ACCOUNTS_AT_ONCE_MAX = 4
ATTEMPTS_MAX = 12
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 2.0, 600.0
"""Doubling, so that it is given up after about an hour."""

Key = tuple[UUID, Mode, UUID]


@dataclass(frozen=True)
class Listed:
    """A statement as Stripe lists it now, oldest first."""

    lines: Sequence[StatementLine] = ()
    payouts: Sequence[StatementPayout] = ()
    balances: tuple[StatementBalance, ...] = ()
    listed_at: datetime = field(default_factory=utc_now)


async def take_request(tx: Tx, event: Envelope[StatementRequested]) -> None:
    """Enter the request; a worker lists the account."""
    wanted = event.data
    await store_statements.insert(
        tx, wanted.statement_id, wanted.account, wanted.listed_from, wanted.listed_to, event
    )


async def list_statement(api: StripeApi, listed_from: datetime, listed_to: datetime) -> Listed:
    """List an account's balance transactions and payouts of a time, and its balance now.

    Raises:
        StripeCallError: Stripe did not answer, refused, or there is too much.
        KeyError, MoneyError: an object is not as this API version has it.
    """
    listed_at = utc_now()
    created = {"gte": _whole_seconds_up(listed_from), "lt": _whole_seconds_up(listed_to)}
    lines = await api.list_all(
        "balance_transaction.list",
        "/v1/balance_transactions",
        {"created": created},
        pages_max=PAGES_MAX,
    )
    payouts = await api.list_all(
        "payout.list", "/v1/payouts", {"created": created}, pages_max=PAGES_MAX
    )
    left_with = await _left_with(api, payouts)
    balance = await api.get("balance.retrieve", "/v1/balance")
    return Listed(
        [_line(raw, left_with.get(raw["id"])) for raw in reversed(lines)],
        [_payout(raw) for raw in reversed(payouts)],
        _balances(balance),
        listed_at,
    )


async def _left_with(api: StripeApi, payouts: Sequence[Json]) -> dict[str, str]:
    """The payout that each balance transaction left with, as far as Stripe says it.

    It does of payouts that it made by itself, once it has put together what is in them
    (docs.stripe.com/payouts/reconciliation).
    """
    found: dict[str, str] = {}
    for payout in payouts:
        if payout["automatic"] and payout.get("reconciliation_status") == "completed":
            lines = await api.list_all(
                "balance_transaction.list",
                "/v1/balance_transactions",
                {"payout": payout["id"]},
                pages_max=PAGES_MAX,
            )
            found |= {line["id"]: payout["id"] for line in lines}
    return found


def parts_of(row: Row, listed: Listed, began_at: datetime | None) -> list[StripeStatement]:
    """The statement in parts of bounded size; at least one.

    Args:
        began_at: since when the account is ours.
    """
    entries: list[StatementLine | StatementPayout] = [*listed.lines, *listed.payouts]
    chunks = [
        entries[start : start + ENTRIES_PER_PART]
        for start in range(0, len(entries), ENTRIES_PER_PART)
    ] or [[]]
    digest = statement_digest(listed.lines, listed.payouts)
    return [
        StripeStatement(
            statement_id=row["statement_id"],
            account=row["account"],
            listed_from=row["listed_from"],
            listed_to=row["listed_to"],
            part=number,
            parts=len(chunks),
            line_count=len(listed.lines),
            payout_count=len(listed.payouts),
            digest=digest,
            lines=tuple(each for each in chunk if isinstance(each, StatementLine)),
            payouts=tuple(each for each in chunk if isinstance(each, StatementPayout)),
            balances=listed.balances if number == 1 else (),
            listed_at=listed.listed_at,
            ours_from=began_at,
        )
        for number, chunk in enumerate(chunks, 1)
    ]


class StatementWorker:
    """Answers requests, each account in a task of its own."""

    def __init__(self, database: Database, identities: Identities) -> None:
        self._database = database
        self._identities = identities
        self.crew: Crew[Key] = Crew("list a statement", self.answer, most=ACCOUNTS_AT_ONCE_MAX)

    async def run_once(self) -> None:
        """Take up what is due."""
        self.crew.take_up(await self.due())

    async def due(self) -> list[Key]:
        """Requests whose turn it is, one of each account."""
        async with self._database.maintenance() as tx:
            found = await store_statements.due(tx, utc_now(), ACCOUNTS_AT_ONCE_MAX)
        return [
            (tenant, "live" if mode == "live" else "test", statement)
            for tenant, mode, statement in found
        ]

    async def answer(self, key: Key) -> None:
        """List one statement and send it; or try later, or say why it cannot be."""
        async with leased(self._database, f"statement:{key[2]}") as lease:
            async with self._database.tenant(key[0], key[1]) as tx:
                row = await store_statements.read(tx, key[2])
            if lease is None or row is None:
                return
            try:
                listed = await self._list(row)
            except StripeRefusedError as error:
                await self._fail(row, error.code)
            except StripeCallError as error:
                await self._later(row, error.code)
            except (KeyError, TypeError, ValueError) as error:
                log.error("statement_odd", error=f"{type(error).__name__}: {error}")  # noqa: TRY400
                await self._later(row, "unreadable_object")
            else:
                await self._send(row, listed)

    async def _list(self, row: Row) -> Listed:
        identity = await self._identities.of(row["account"], row["mode"])
        if identity is None or identity.tenant_id != row["tenant_id"]:
            raise StripeCallError("not_connected", "the tenant has not connected this account")
        return await list_statement(identity.api, row["listed_from"], row["listed_to"])

    async def _send(self, row: Row, listed: Listed) -> None:
        async with self._transaction(row) as tx:
            began_at = await beginnings.ours_from(tx, row["tenant_id"], row["account"])
            if await store_statements.end(tx, row["statement_id"], "done", None):
                for part in parts_of(row, listed, began_at):
                    emit(tx, part, effective_at=row["effective_at"])

    async def _later(self, row: Row, error: str) -> None:
        if row["attempts"] + 1 >= ATTEMPTS_MAX:
            await self._fail(row, error)
            return
        pause = min(PAUSE_SECONDS_MIN * 2 ** row["attempts"], PAUSE_SECONDS_MAX)
        async with self._transaction(row) as tx:
            until = utc_now() + timedelta(seconds=pause)
            await store_statements.postpone(tx, row["statement_id"], until, error)

    async def _fail(self, row: Row, error: str) -> None:
        log.error("statement_not_listed", account=row["account"], error=error)
        failed = StripeStatement(
            statement_id=row["statement_id"],
            account=row["account"],
            listed_from=row["listed_from"],
            listed_to=row["listed_to"],
            part=0,
            parts=0,
            line_count=0,
            payout_count=0,
            digest=statement_digest((), ()),
            listed_at=utc_now(),
            error=error[:100],
        )
        async with self._transaction(row) as tx:
            if await store_statements.end(tx, row["statement_id"], "failed", error):
                emit(tx, failed, effective_at=row["effective_at"])

    def _transaction(self, row: Row) -> AbstractAsyncContextManager[Tx]:
        cause = Cause(row["causation_id"], row["correlation_id"])
        return self._database.tenant(row["tenant_id"], row["mode"], cause=cause)


def _whole_seconds_up(at: datetime) -> int:
    """Stripe's times are whole seconds: the first that is not before `at`."""
    return -int(-at.timestamp() // 1)


def _line(raw: Json, payout_id: str | None) -> StatementLine:
    currency = raw["currency"]
    return StatementLine(
        stripe_balance_transaction_id=raw["id"],
        kind=raw["type"],
        source_id=id_of(raw["source"]),
        amount_minor=from_stripe(raw["amount"], currency).amount_minor,
        fee_minor=from_stripe(raw["fee"], currency).amount_minor,
        net_minor=from_stripe(raw["net"], currency).amount_minor,
        currency=currency.upper(),
        created_at=from_unix(raw["created"]),
        available_at=from_unix(raw["available_on"]),
        payout_id=payout_id,
    )


def _payout(raw: Json) -> StatementPayout:
    currency = raw["currency"]
    return StatementPayout(
        stripe_payout_id=raw["id"],
        stripe_balance_transaction_id=id_of(raw["balance_transaction"]),
        amount_minor=from_stripe(raw["amount"], currency).amount_minor,
        currency=currency.upper(),
        status=raw["status"],
        arrival_on=from_unix(raw["arrival_date"]).date(),
    )


def _balances(raw: Json) -> tuple[StatementBalance, ...]:
    held: dict[str, dict[str, int]] = {}
    for status in ("available", "pending"):
        for entry in raw[status]:
            amount = from_stripe(entry["amount"], entry["currency"])
            by_status = held.setdefault(amount.currency, {})
            by_status[status] = by_status.get(status, 0) + amount.amount_minor
    return tuple(
        StatementBalance(
            currency=currency,
            available_minor=by_status.get("available", 0),
            pending_minor=by_status.get("pending", 0),
        )
        for currency, by_status in sorted(held.items())
    )
