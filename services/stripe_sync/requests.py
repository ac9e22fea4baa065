"""Calls that move money: frozen in a row first, made outside any transaction, and never left open.

A request is `open` until it is known what came of it. Whoever asked makes the call at once; where no
answer came, a worker looks for the object at Stripe before anything is sent again, and sends the same
under the same idempotency key. After a day, when Stripe may have forgotten the key, nothing is sent
any more: what was never sent was never made. Once it was sent, only Stripe's answer to it, or
the object itself, tells what came of it; where neither can be had for a day it ends as unknown.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Database, Row, Tx
from libs.directory.local import business_now
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.stripe_sync import store_requests
from services.stripe_sync.client import (
    Json,
    StripeAccessError,
    StripeApi,
    StripeCallError,
    StripeRefusedError,
    StripeStoppedError,
    StripeTransientError,
)
from services.stripe_sync.lookups import LOOK_BACK, PAGES_MAX, Listed, list_intents, named
from services.stripe_sync.once import STORED_STATUS, Writer, may_be_forgotten
from services.stripe_sync.outcomes import Outcome
from services.stripe_sync.payers import Asker
from services.stripe_sync.store_requests import OUTCOME_UNKNOWN

log = structlog.get_logger()

EXPANDED = {"expand": ["latest_charge.balance_transaction"]}
CALLER_TRIES_FOR = timedelta(seconds=90)
"""How long the caller's own try may take; only then the worker looks."""
PAUSES_SECONDS = (0.2, 0.6)
PATIENCE_SECONDS = 15.0
"""How long a caller is kept waiting for one more try."""
NEVER_REACHED = "never_reached_stripe"
NOT_CONNECTED = "stripe_not_connected"
RESEND_PAUSE = timedelta(seconds=5)
"""Before the same is sent under a new key: what failed at Stripe may show only a moment later."""
_OPERATIONS: Mapping[str, str] = {
    "intent": "payment_intent.create",
    "confirm": "payment_intent.confirm",
    "capture": "payment_intent.capture",
    "cancel": "payment_intent.cancel",
    "refund": "refund.create",
    "outside": "invoice.pay",
}
_DONE_WHEN: Mapping[str, frozenset[str]] = {
    "confirm": frozenset({"processing", "succeeded", "requires_capture", "requires_action"}),
    "capture": frozenset({"succeeded"}),
    "cancel": frozenset({"canceled"}),
}
"""Statuses of an intent that show that a step was taken."""


class DeclinedError(Exception):
    """The payer's bank said no; `code` is Stripe's word."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class RefusedError(Exception):
    """Stripe refused for good; `code` is its word."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class InvoicePaidError(StripeRefusedError):
    """The payer has paid the invoice at Stripe, so nobody can mark it as paid outside."""


class UnseenError(StripeTransientError):
    """It may have been done, and Stripe does not let us see now whether it was."""


@dataclass(frozen=True)
class Wish:
    """What is to be sent.

    Attributes:
        told: what the audit log says of it.
    """

    kind: str
    payment_id: UUID
    account: str
    path: str
    params: Json
    told: dict[str, str | int | bool | None]


async def enter(tx: Tx, asker: Asker, wish: Wish, request_id: UUID) -> tuple[Row, bool]:
    """Freeze a request, and have the audit log tell who asked; once under a client's key.

    Returns:
        The row, and whether it was entered now.
    """
    now = utc_now()
    row, entered = await store_requests.reserve(
        tx,
        {
            "request_id": request_id,
            "kind": wish.kind,
            "payment_id": wish.payment_id,
            "account": wish.account,
            "actor": asker.actor,
            "client_key": asker.client_key,
            "request": {"path": wish.path, "params": wish.params},
            "next_try_at": now + CALLER_TRIES_FOR,
            "created_at": now,
        },
    )
    if entered:
        change = ConfigurationChanged(
            action=f"payment.{wish.kind}_requested",
            actor=asker.actor,
            object_id=public_id("payment", wish.payment_id),
            after=wish.told,
        )
        emit(tx, change, effective_at=business_now(asker.tenant, asker.mode))
    return row, entered


async def enter_step(
    database: Database, asker: Asker, kind: str, payment: Mapping[str, Any], params: Json
) -> Row:
    """Freeze the next step of a payment intent: `confirm`, `capture` or `cancel`."""
    wish = Wish(
        kind=kind,
        payment_id=payment["payment_id"],
        account=payment["account"],
        path=f"/v1/payment_intents/{payment['stripe_payment_intent_id']}/{kind}",
        params=params | EXPANDED,
        told={name: params[name] for name in ("amount_to_capture",) if name in params},
    )
    async with database.tenant(asker.tenant.id, asker.mode) as tx:
        row, _ = await enter(tx, asker, wish, new_id())
    return row


@dataclass(frozen=True)
class Errand:
    """A request on its way.

    Attributes:
        row: as it was entered.
        at: the tenant's business time.
        listed: what was found of it, and of others, in lists made since it was taken up.
    """

    database: Database
    api: StripeApi
    row: Row
    at: datetime
    listed: Listed = field(default_factory=dict)

    async def run(self, *, looks_first: bool = False) -> Json | None:
        """Make the call and take what came of it; Stripe's object, None where nothing was sent.

        Args:
            looks_first: an earlier try may have had its effect.

        Raises:
            DeclinedError: by the payer's bank; the payment says so.
            RefusedError: by Stripe, now or the first time.
            StripeStoppedError: nothing of the account can be called, and nothing was sent.
            StripeTransientError: nobody knows; the worker will look.
        """
        if self.row["state"] == "refused":
            raise _refusal(self.row["refusal"], self.row["refusal_status"])
        if self.row["state"] == "done":
            return None
        try:
            # Nothing is sent any more after a day, so nothing but a look can tell.
            answer = await self._send(looks_first=looks_first or is_over(self.row))
        except StripeStoppedError:
            await self._outcome.refused(NOT_CONNECTED, 409)
            raise
        except (StripeRefusedError, StripeAccessError) as error:
            declined = error.status == 402
            found = await self._after_decline() if declined else None
            await self._outcome.refused(error.code, error.status or 400, found)
            raise _refusal(error.code, error.status) from None
        except UnseenError as error:
            if is_over(self.row):
                await self._outcome.refused(OUTCOME_UNKNOWN, 409)
                raise RefusedError(OUTCOME_UNKNOWN) from None
            await self._later(error, LOOK_BACK)
            raise
        except StripeTransientError as error:
            pause = _pause(self.row["attempts"])
            burnt = error.status == STORED_STATUS
            await self._later(error, max(pause, RESEND_PAUSE) if burnt else pause)
            raise
        await self._outcome.done(answer)
        return answer

    @property
    def _outcome(self) -> Outcome:
        return Outcome(self.database, self.row, self.at)

    async def _send(self, *, looks_first: bool) -> Json:
        """Try, and look before each further try: nothing here trusts a key alone to prevent a twin.

        What failed so that the same key is of no more use is left to the worker.
        """
        started = time.monotonic()
        for pause in (*PAUSES_SECONDS, None):
            try:
                found = await self._looked() if looks_first else None
                return found or await self._post(looked=looks_first)
            except StripeTransientError as error:
                looks_first = True
                final = isinstance(error, UnseenError) or error.status == STORED_STATUS
                if final or pause is None or time.monotonic() - started > PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _post(self, *, looked: bool) -> Json:
        """Send it.

        Where the key is burnt it is looked for once more, however lately it was looked for: a try that
        was under way beside that look may have had its effect since, and burnt the key.

        Args:
            looked: since it was taken up; else that is done here, if it was sent before.
        """
        row, request = self.row, self.row["request"]
        self.listed.pop(row["request_id"], None)
        if is_over(row):
            if await self._was_sent():
                # Stripe may be at it still, if it was sent a moment ago.
                raise UnseenError("not_seen", "it was sent, and is not there now")
            raise StripeRefusedError(NEVER_REACHED, "it was not made within a day")
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            sent_before = await store_requests.note_sent(tx, row["request_id"])
        if sent_before is None:
            raise StripeTransientError("ended_meanwhile", "somebody else has had the answer")
        if sent_before and not looked:
            # By a process that was killed, say: nobody saw how that ended, nor whether its key was kept.
            found = await self._looked()
            if found is not None:
                return found
        writer = Writer(self.database, self.api, row["tenant_id"], row["mode"], network_retries=0)
        try:
            return await writer.post(
                _OPERATIONS[row["kind"]],
                request["path"],
                request["params"],
                key=f"{row['kind']}:{row['request_id']}",
                look=self._looked,
            )
        except StripeAccessError as error:
            if sent_before:
                raise UnseenError(error.code, error.message, status=error.status) from None
            raise

    async def _looked(self) -> Json | None:
        """What an earlier try has made; None: nothing.

        Raises:
            UnseenError: Stripe refuses to tell of what was sent.
            StripeCallError: see its kinds.
        """
        try:
            return await self._look()
        except InvoicePaidError:
            raise
        except (StripeAccessError, StripeRefusedError) as error:
            if await self._was_sent():
                raise UnseenError(error.code, error.message, status=error.status) from None
            raise

    async def _was_sent(self) -> bool:
        row = self.row
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            return await store_requests.was_sent(tx, row["request_id"])

    async def _look(self) -> Json | None:
        kind, params = self.row["kind"], self.row["request"]["params"]
        if kind in _DONE_WHEN:
            path = self.row["request"]["path"].rpartition("/")[0]
            intent = await self.api.get("payment_intent.retrieve", path, EXPANDED)
            return intent if intent["status"] in _DONE_WHEN[kind] else None
        if kind == "outside":
            return await self._look_at_invoice()
        if kind == "intent":
            mine = await self._listed_intent()
            if mine is None:
                return None
            path = f"/v1/payment_intents/{mine['id']}"
            return await self.api.get("payment_intent.retrieve", path, EXPANDED)
        names = ("payment_intent", "charge")
        query = {name: params[name] for name in names if name in params}
        return await find_refund(self.api, query, self.row["request_id"])

    async def _listed_intent(self) -> Json | None:
        row = self.row
        if row["request_id"] in self.listed:
            return self.listed[row["request_id"]]
        customer = row["request"]["params"]["customer"]
        found = await list_intents(self.api, customer, row["created_at"])
        return named(found, "payment_id", row["payment_id"])

    async def _look_at_invoice(self) -> Json | None:
        """The invoice where it is marked as paid outside; a payment at Stripe was somebody else's."""
        path = self.row["request"]["path"].rpartition("/")[0]
        invoice = await self.api.get("invoice.retrieve", path)
        if invoice["status"] != "paid":
            return None
        if invoice["amount_paid"]:
            raise InvoicePaidError("invoice_already_paid", "it was paid at Stripe", status=400)
        return invoice

    async def _after_decline(self) -> Json | None:
        """The intent that was declined: the attempt is a fact although the call failed."""
        try:
            if self.row["kind"] != "confirm":
                return await self._look() if self.row["kind"] == "intent" else None
            path = self.row["request"]["path"].rpartition("/")[0]
            return await self.api.get("payment_intent.retrieve", path, EXPANDED)
        except StripeCallError:
            return None

    async def _later(self, error: Exception, pause: timedelta) -> None:
        row = self.row
        log.warning("payment_outcome_unknown", request=str(row["request_id"]), error=str(error))
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            await store_requests.postpone(tx, row["request_id"], utc_now() + pause, str(error))


async def find_refund(api: StripeApi, query: Json, refund_id: UUID) -> Json | None:
    """The refund of ours among those that Stripe has of a payment; None: it has it not.

    Args:
        query: `payment_intent` or `charge` with its id.

    Raises:
        StripeCallError: see its kinds.
    """
    found = await api.list_all("refund.list", "/v1/refunds", query, pages_max=PAGES_MAX)
    return named(found, "refund_id", refund_id)


def is_over(row: Row) -> bool:
    """Whether a request is so old that Stripe may have forgotten its idempotency key."""
    entered: datetime = row["created_at"]
    return may_be_forgotten(entered)


PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 1.0, 600.0
DOUBLINGS_MAX = 10


def _pause(attempts: int) -> timedelta:
    seconds = min(PAUSE_SECONDS_MIN * 2 ** min(attempts, DOUBLINGS_MAX), PAUSE_SECONDS_MAX)
    return timedelta(seconds=seconds)


def _refusal(code: str, status: int | None) -> Exception:
    return DeclinedError(code) if status == 402 else RefusedError(code)
