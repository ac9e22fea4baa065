"""Timed work: clocks that move, and what falls due in real time."""

import asyncio
import itertools
import logging

from services.stripe_sim import balance, checkout, clocks, refunds, slow_payments
from services.stripe_sim.api import ANSWERS_KEPT_SECONDS
from services.stripe_sim.sandbox import Sandbox

TICK_SECONDS = 1.0
PRUNE_EVERY_TICKS = 600
ACTIONS_PER_TICK_MAX = 200
ADVANCE_SECONDS_MIN = 0.05
"""An advance takes at least this long, so that `advancing` can be seen."""

log = logging.getLogger("stripe_sim")


class ClockRunner:
    """Moves the clocks that were told to."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        sandbox.wake_clocks = lambda account, clock: self._queue.put_nowait((account, clock))

    def resume(self) -> None:
        """Queue the clocks that were on their way when the sandbox stopped."""
        for account, clock in self.sandbox.store.everywhere(clocks.KIND):
            if clock["status"] == "advancing":
                self._queue.put_nowait((account, clock["id"]))

    async def run(self) -> None:
        """Advance clocks until cancelled."""
        while True:
            account, clock_id = await self._queue.get()
            await asyncio.sleep(ADVANCE_SECONDS_MIN)
            try:
                await self._advance(account, clock_id)
            except Exception:
                log.exception("clock %s failed", clock_id)
                self.sandbox.store.rollback()
                self._mark_failed(account, clock_id)

    async def _advance(self, account: str, clock_id: str) -> None:
        scope = self.sandbox.scope(account)
        clock = scope.find(clocks.KIND, clock_id)
        if clock is None or clock["status"] != "advancing":
            return
        for _ in clocks.run_advance(scope, clock):
            self.sandbox.store.commit()
            await asyncio.sleep(0)

    def _mark_failed(self, account: str, clock_id: str) -> None:
        scope = self.sandbox.scope(account)
        clock = scope.find(clocks.KIND, clock_id)
        if clock is not None:
            clock["status"] = "internal_failure"
            clock["_sim"]["working_at"] = None
            scope.save(clock)
            self.sandbox.store.commit()


async def keep_time(sandbox: Sandbox) -> None:
    """Do what falls due in real time, once a second, until cancelled."""
    for tick in itertools.count():
        try:
            run_once(sandbox)
            if tick % PRUNE_EVERY_TICKS == 0:
                sandbox.store.prune_answers(sandbox.wall_now() - ANSWERS_KEPT_SECONDS)
        except Exception:
            log.exception("timed work failed")
            sandbox.store.rollback()
        await asyncio.sleep(TICK_SECONDS)


def run_once(sandbox: Sandbox) -> int:
    """Do what is due now, a bounded amount of it; return how many actions that was."""
    now, done = sandbox.wall_now(), 0
    for account in sandbox.store.accounts():
        scope = sandbox.scope(account)
        while done < ACTIONS_PER_TICK_MAX:
            action = clocks.next_action(scope, None, now)
            if action is None:
                break
            _due, _order, act, obj = action
            act(scope, obj)
            sandbox.store.commit()
            done += 1
        for session in scope.all(checkout.KIND, status="open"):
            if session["expires_at"] <= now:
                checkout.expire(scope, session)
        for intent, succeeds in slow_payments.due(scope, now):
            slow_payments.settle(scope, intent, succeeds=succeeds)
        for refund, failure in refunds.due(scope, now):
            refunds.settle(scope, refund, failure)
        balance.release(scope)
        sandbox.store.commit()
    return done
