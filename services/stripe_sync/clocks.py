"""Moving a tenant's Stripe test clock: hop by hop, resumable at any step.

A hop ends at most five minutes after the next period end. There the business clock follows
(`StripeClockAdvanced`), billing closes the period and completes the draft; only when no cycle draft
is left does the next hop begin. Stripe itself is asked where the clock stands, so a worker that was
killed leaves nothing to repair.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from libs.clock import from_unix, utc_now
from libs.contracts.envelope import Envelope
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, StripeClockAdvanced, StripeCommandFailed
from libs.contracts.tenants import ClockAdvanceRequested
from libs.db.pool import TRANSIENT_ERRORS, Cause, Database, Row, Tx
from libs.messaging.outbox import emit
from services.stripe_sync import store_checkout, store_marks, store_work
from services.stripe_sync.client import (
    Json,
    StripeApi,
    StripeCallError,
    StripeRefusedError,
)
from services.stripe_sync.concurrency import all_of
from services.stripe_sync.identities import Identities
from services.stripe_sync.lease import leased
from services.stripe_sync.objects_invoices import is_managed, period_of
from services.stripe_sync.once import Writer

log = structlog.get_logger()

AFTER_PERIOD_END = timedelta(minutes=5)
LONGEST_HOP = timedelta(days=700)
"""Stripe moves a clock without subscriptions by at most two years at once."""
BATCH_ADVANCES = 20
POLL_SECONDS = 0.3
PAUSE_SECONDS_MAX = 60.0
PAGES_MAX = 10
LIVING = frozenset({"trialing", "active", "past_due", "unpaid", "incomplete", "paused"})


async def take_request(tx: Tx, event: Envelope[ClockAdvanceRequested]) -> None:
    """Enter the request; a worker moves the clock."""
    await store_work.insert_advance(tx, event.data.advance_id, event.data.advance_to, event)


@dataclass(frozen=True)
class ClockWorker:
    """Moves the clocks of all tenants that asked for it, one step of each at a time."""

    database: Database
    identities: Identities

    async def run_once(self) -> int:
        """Take each due advance one step further; how many there were."""
        async with self.database.maintenance() as tx:
            advances = await store_work.due_advances(tx, utc_now(), BATCH_ADVANCES)
        await all_of(self._step_leased(row) for row in advances)
        return len(advances)

    async def _step_leased(self, row: Row) -> None:
        async with leased(self.database, f"clock:{row['tenant_id']}:{row['mode']}") as lease:
            if lease is None:
                return
            try:
                await self._step(row)
            except TRANSIENT_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001 - one odd clock must not hold up the others
                log.error("clock_not_moved", error=f"{type(error).__name__}: {error}")  # noqa: TRY400
                await self._look_again(row, PAUSE_SECONDS_MAX, str(error))

    async def _step(self, row: Row) -> None:
        api = self.identities.platform(row["mode"])
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            clocks = await store_checkout.clocks_of(tx, PLATFORM_ACCOUNT)
        if not clocks or api is None:
            await self._report(row, row["advance_to"], final=True)
            return
        clock_id, customer = clocks[0]["stripe_test_clock_id"], clocks[0]["stripe_customer_id"]
        try:
            waits_for = await self._move(api, row, clock_id, customer)
        except StripeRefusedError as error:
            await self._give_up(row, error)
        except StripeCallError as error:
            log.warning("clock_not_moved", clock=clock_id, error=str(error))
            pause = min(POLL_SECONDS * 2 ** min(row["attempts"], 10), PAUSE_SECONDS_MAX)
            await self._look_again(row, pause, str(error))
        else:
            if waits_for is not None:
                await self._look_again(row, POLL_SECONDS, waits_for)

    async def _move(self, api: StripeApi, row: Row, clock_id: str, customer: str) -> str | None:
        """One step; what the next step waits for, or None where there is none."""
        path = f"/v1/test_helpers/test_clocks/{clock_id}"
        clock = await api.get("test_clock.retrieve", path)
        if clock["status"] != "ready":
            return f"the clock is {clock['status']}"
        shown = from_unix(clock["frozen_time"])
        target = _whole_seconds_up(row["advance_to"])
        drafts = await self._cycle_drafts(api, customer)
        arrived = shown >= target
        if arrived and not drafts:
            await self._report(row, max(shown, row["advance_to"]), final=True)
            return None
        if row["reached"] is None and not arrived:
            await self._note_start(row, shown)
        else:
            # The business clock must follow before billing can close the period that has ended.
            await self._report(row, shown, final=False)
        if drafts:
            await self._refetch(row, drafts)
            return "the cycle invoice is a draft"
        hop = await _next_hop(api, customer, shown, target)
        writer = Writer(self.database, api, row["tenant_id"], row["mode"])
        await writer.post(
            "test_clock.advance",
            f"{path}/advance",
            {"frozen_time": int(hop.timestamp())},
            key=f"{row['advance_id']}:{int(hop.timestamp())}",
        )
        return "the clock moves"

    async def _cycle_drafts(self, api: StripeApi, customer: str) -> list[str]:
        """Drafts of ended periods that billing has yet to complete."""
        drafts = await api.list_all(
            "invoice.list",
            "/v1/invoices",
            {"customer": customer, "status": "draft"},
            pages_max=PAGES_MAX,
        )
        return [
            draft["id"]
            for draft in drafts
            if draft["billing_reason"] == "subscription_cycle" and is_managed(draft)
        ]

    async def _refetch(self, row: Row, drafts: list[str]) -> None:
        """Do not depend on the webhook of a draft: it may have been lost."""
        if row["attempts"] % 20 != 0:
            return
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            await store_marks.mark(tx, PLATFORM_ACCOUNT, [("invoice", draft) for draft in drafts])

    async def _note_start(self, row: Row, shown: datetime) -> None:
        """Remember where the clock stood, so that the first hop is told from no hop."""
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            await store_work.note_reached(tx, row["advance_id"], shown, done=False)

    async def _report(self, row: Row, reached: datetime, *, final: bool) -> None:
        """Say where the clock stands, once for each place."""
        cause = Cause(row["causation_id"], row["correlation_id"])
        async with self.database.tenant(row["tenant_id"], row["mode"], cause=cause) as tx:
            if await store_work.note_reached(tx, row["advance_id"], reached, done=final):
                fact = StripeClockAdvanced(
                    advance_id=row["advance_id"], reached=reached, final=final
                )
                emit(tx, fact, effective_at=reached)

    async def _give_up(self, row: Row, error: StripeRefusedError) -> None:
        """Stripe said no and will say so again: the advance is over, and another may be asked for."""
        log.error("clock_refused", advance=str(row["advance_id"]), error=str(error))
        cause = Cause(row["causation_id"], row["correlation_id"])
        async with self.database.tenant(row["tenant_id"], row["mode"], cause=cause) as tx:
            if await store_work.fail_advance(tx, row["advance_id"], str(error)):
                fact = StripeCommandFailed(
                    command_id=row["advance_id"], code=error.code, detail=error.message
                )
                emit(tx, fact, effective_at=row["requested_at"])

    async def _look_again(self, row: Row, pause_seconds: float, reason: str) -> None:
        until = utc_now() + timedelta(seconds=pause_seconds)
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            await store_work.postpone_advance(tx, row["advance_id"], until, reason)


async def _next_hop(api: StripeApi, customer: str, shown: datetime, target: datetime) -> datetime:
    """Where the clock goes next: the target, or just past the first period end on the way."""
    subscriptions = await api.list_all(
        "subscription.list",
        "/v1/subscriptions",
        {"customer": customer, "status": "all"},
        pages_max=PAGES_MAX,
    )
    stops = [stop for each in subscriptions for stop in _stops(each) if stop > shown]
    return min([target, shown + LONGEST_HOP, *stops])


def _stops(subscription: Json) -> list[datetime]:
    if subscription["status"] not in LIVING:
        return []
    return [period_of(subscription)[1] + AFTER_PERIOD_END]


def _whole_seconds_up(at: datetime) -> datetime:
    """Stripe's clocks show whole seconds; never stop short of what was asked for."""
    return from_unix(math.ceil(at.timestamp()))
