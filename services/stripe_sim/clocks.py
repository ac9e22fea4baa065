"""Test clocks: time that stands still until it is moved, and the work that falls due on the way."""

from collections.abc import Callable, Iterator
from typing import Any

from services.stripe_sim import collection, renewals, subscriptions
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS, add_intervals
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

KIND = "test_helpers.test_clock"
CUSTOMERS_MAX = 3
INTERVALS_MAX = 2
DELETED_AFTER_SECONDS = 30 * DAY_SECONDS
ACTIONS_PER_ADVANCE_MAX = 5_000

Action = tuple[int, int, Callable[[Scope, Obj], Any], Obj]


def build(scope: Scope, frozen_time: int, name: str | None) -> Obj:
    """Create a clock that stands at a time."""
    now = scope.wall_now()
    clock = scope.save(
        {
            "id": scope.new_id("clock_1"),
            "object": KIND,
            "created": now,
            "deletes_after": now + DELETED_AFTER_SECONDS,
            "frozen_time": frozen_time,
            "livemode": False,
            "name": name,
            "status": "ready",
            "status_details": {},
            "_sim": {"working_at": None, "target": None},
        }
    )
    emit(scope, "test_helpers.test_clock.created", clock)
    return clock


def start_advance(scope: Scope, clock: Obj, target: int) -> Obj:
    """Begin to move a clock; the work is done by `run_advance`.

    Raises:
        ApiError: the clock is moving already, would go back, or further than two intervals of
            its shortest subscription (two years without any).
    """
    if clock["status"] != "ready":
        raise invalid(
            "Test clock advancement underway - cannot advance the clock until it is ready.",
            code="test_clock_not_ready",
        )
    now = clock["frozen_time"]
    if target <= now:
        raise invalid(
            f"Invalid frozen_time: the clock stands at {now} and only moves forward.",
            "frozen_time",
        )
    if target > (latest := _furthest(scope, clock)):
        raise invalid(
            "Cannot advance a test clock by more than two intervals of its shortest subscription "
            f"(two years without subscriptions): the latest allowed frozen_time is {latest}.",
            "frozen_time",
        )
    clock |= {
        "status": "advancing",
        "status_details": {"advancing": {"target_frozen_time": target}},
    }
    clock["_sim"]["target"] = target
    scope.save(clock)
    emit(scope, "test_helpers.test_clock.advancing", clock)
    scope.sandbox.wake_clocks(scope.account, clock["id"])
    return clock


def _furthest(scope: Scope, clock: Obj) -> int:
    now = clock["frozen_time"]
    ends = [
        add_intervals(now, interval, INTERVALS_MAX * count)
        for subscription in scope.all("subscription", test_clock=clock["id"])
        if subscription["status"] in subscriptions.ALIVE
        for interval, count in [subscriptions.interval_of(subscription)]
    ]
    return min(ends, default=add_intervals(now, "year", INTERVALS_MAX))


def run_advance(scope: Scope, clock: Obj) -> Iterator[None]:
    """Do everything that falls due up to the clock's target, in order of time.

    Yields after each action, so that the caller can commit and let others work.
    """
    target = clock["_sim"]["target"]
    for _ in range(ACTIONS_PER_ADVANCE_MAX):
        action = next_action(scope, clock["id"], target)
        if action is None:
            break
        due, _order, act, obj = action
        clock["_sim"]["working_at"] = max(due, clock["frozen_time"])
        scope.save(clock)
        act(scope, obj)
        yield
    clock["_sim"] = {"working_at": None, "target": None}
    clock |= {"status": "ready", "status_details": {}, "frozen_time": target}
    scope.save(clock)
    emit(scope, "test_helpers.test_clock.ready", clock)
    yield


def next_action(scope: Scope, clock_id: str | None, until: int) -> Action | None:
    """Return the earliest thing due by a time on a clock, or in real time where it is None."""
    return min(
        (action for action in _due(scope, clock_id) if action[0] <= until),
        key=lambda action: action[:2],
        default=None,
    )


def _due(scope: Scope, clock_id: str | None) -> Iterator[Action]:
    for invoice in scope.sandbox.store.all(scope.account, "invoice"):
        if invoice["test_clock"] != clock_id:
            continue
        seq = scope.sandbox.store.seq(scope.account, invoice)
        if invoice["status"] == "draft" and invoice["auto_advance"]:
            due = invoice["automatically_finalizes_at"]
            if due is not None:
                yield due, seq, _finalize, invoice
        elif invoice["status"] == "open" and invoice["next_payment_attempt"] is not None:
            yield invoice["next_payment_attempt"], seq, collection.collect, invoice
    for subscription in scope.sandbox.store.all(scope.account, "subscription"):
        if subscription["test_clock"] == clock_id:
            seq = scope.sandbox.store.seq(scope.account, subscription)
            yield from _due_of_subscription(subscription, seq)


def _due_of_subscription(subscription: Obj, seq: int) -> Iterator[Action]:
    status = subscription["status"]
    if status == "incomplete":
        due = subscription["created"] + subscriptions.INCOMPLETE_SECONDS
        yield due, seq, renewals.expire_incomplete, subscription
    if status not in ("trialing", "active", "past_due", "unpaid"):
        return
    if subscription["cancel_at"] is not None:
        yield subscription["cancel_at"], seq, _cancel, subscription
    pause = subscription["pause_collection"]
    if pause and pause["resumes_at"] is not None:
        yield pause["resumes_at"], seq, _resume_collection, subscription
    yield subscriptions.period_of(subscription)[1], seq, renewals.renew, subscription


def _finalize(scope: Scope, invoice: Obj) -> None:
    collection.finalize_and_collect(scope, invoice)


def _cancel(scope: Scope, subscription: Obj) -> None:
    subscriptions.cancel(scope, subscription, "cancellation_requested", {})


def _resume_collection(scope: Scope, subscription: Obj) -> None:
    previous = {"pause_collection": subscription["pause_collection"]}
    subscription["pause_collection"] = None
    scope.save(subscription)
    emit(scope, "customer.subscription.updated", subscription, previous)
