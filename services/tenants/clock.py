"""The tenant's business clock: moved by an operator, in test mode, forward only.

Asking is a row and an event; stripe_sync moves the Stripe test clock in hops, and the business clock
follows each hop that was reached.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.stripe_sync import StripeClockAdvanced, StripeCommandFailed
from libs.contracts.tenants import ClockAdvanceRequested
from libs.db.pool import Row, Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.tenants import snapshot
from services.tenants import store_tenants as store

ADVANCE_MAX = timedelta(days=731)
"""Two years at once: as far as Stripe moves a clock."""
OFFSET_MAX = timedelta(days=20 * 366)
"""Twenty years ahead of the real time, all together."""


class ClockNotForwardError(Exception):
    """The time asked for is not after the business time."""


class ClockTooFarError(Exception):
    """The time asked for is too far ahead."""


class ClockAdvancingError(Exception):
    """An earlier move is under way."""


@dataclass(frozen=True)
class ClockState:
    """Where the clock stands.

    Attributes:
        advance_to: where a move under way leads.
        failure: why the last move ended early, if it did.
    """

    business_now: datetime
    status: Literal["ready", "advancing"]
    advance_to: datetime | None = None
    failure: str | None = None


async def request_advance(tx: Tx, advance_to: datetime, actor: str, now: datetime) -> ClockState:
    """Ask to move the clock of the tenant in scope.

    Raises:
        ClockAdvancingError, ClockNotForwardError, ClockTooFarError: nothing was done.
    """
    tenant = await store.lock_tenant(tx)
    assert tenant is not None, "the gate knows the tenant"
    state = _state(tenant, await store.latest_advance(tx), now)
    if state.status == "advancing":
        raise ClockAdvancingError
    if advance_to <= state.business_now:
        raise ClockNotForwardError
    if advance_to - state.business_now > ADVANCE_MAX or advance_to - now > OFFSET_MAX:
        raise ClockTooFarError
    advance_id = new_id()
    await store.insert_advance(tx, advance_id, advance_to, actor, now)
    emit(tx, ClockAdvanceRequested(advance_id=advance_id, advance_to=advance_to))
    emit(
        tx,
        ConfigurationChanged(
            action="clock.advance_requested",
            actor=actor,
            object_id=str(advance_id),
            before={"business_now": state.business_now.isoformat()},
            after={"advance_to": advance_to.isoformat()},
        ),
    )
    return ClockState(state.business_now, "advancing", advance_to)


async def read(tx: Tx, now: datetime) -> ClockState | None:
    """Where the clock of the tenant in scope stands at this real time."""
    # The move before the clock: the last hop may come between, and "ready" is said of where it led.
    latest = await store.latest_advance(tx)
    tenant = await store.find_tenant(tx, tx.mode)
    return None if tenant is None else _state(tenant, latest, now)


def _state(tenant: Row, latest: Row | None, now: datetime) -> ClockState:
    business_now = now + timedelta(seconds=tenant["clock_offset_seconds"])
    if latest is not None and latest["finished_at"] is None:
        return ClockState(business_now, "advancing", latest["advance_to"])
    return ClockState(business_now, "ready", failure=latest["failure"] if latest else None)


async def follow(tx: Tx, fact: StripeClockAdvanced, occurred_at: datetime) -> None:
    """Let the business clock follow a hop.

    The offset is taken from when the hop was told of, so that a replay agrees, and rounded up, so
    that the business clock is never short of the time reached.
    """
    tenant = await store.lock_tenant(tx)
    if tenant is None:
        return
    finished_at = occurred_at if fact.final else None
    await store.note_hop(tx, fact.advance_id, fact.reached, finished_at)
    offset_seconds = -((occurred_at - fact.reached) // timedelta(seconds=1))
    if offset_seconds > 0 and await store.move_clock(tx, offset_seconds):
        await snapshot.publish(tx, occurred_at)


async def give_up(tx: Tx, fact: StripeCommandFailed, occurred_at: datetime) -> None:
    """End a move that Stripe refused, so that another can be asked for."""
    command_id: UUID = fact.command_id
    await store.fail_advance(tx, command_id, f"{fact.code}: {fact.detail}"[:500], occurred_at)
