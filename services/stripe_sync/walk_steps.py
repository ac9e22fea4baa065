"""Every walk there is: which of Stripe's lists is read, how often, and what for."""

import zlib
from collections.abc import Mapping
from datetime import datetime, timedelta

from libs.contracts.envelope import Mode
from services.stripe_sync import finding, sweeps
from services.stripe_sync.client import Json
from services.stripe_sync.marks import MIRRORED
from services.stripe_sync.settings import Settings
from services.stripe_sync.store_walks import Walk
from services.stripe_sync.sweeps import ClockSweep, Sweep
from services.stripe_sync.walks import LISTS, WHOLE, Step

NIGHT_HOURS = 3
"""Over how many hours the accounts are spread."""


def gap_fill_next(settings: Settings, _walk: Walk, now: datetime) -> datetime:
    """Every ten minutes or so."""
    return now + timedelta(seconds=settings.gap_fill_every_seconds)


def undelivered_next(settings: Settings, _walk: Walk, now: datetime) -> datetime:
    """Every hour or so."""
    return now + timedelta(seconds=settings.undelivered_every_seconds)


def tonight(settings: Settings, account: str, now: datetime) -> datetime:
    """The next night's turn of an account: each has its own, so that they do not all come at once."""
    turn_seconds = zlib.crc32(account.encode()) % (NIGHT_HOURS * 3600)
    at = now.replace(hour=settings.sweep_hour, minute=0, second=0, microsecond=0)
    at += timedelta(seconds=turn_seconds)
    return at if at > now else at + timedelta(days=1)


def _nightly(settings: Settings, walk: Walk, now: datetime) -> datetime:
    return tonight(settings, walk.account, now)


def _sweep(path: str, sweep: Sweep, **filters: str) -> Step:
    def query(walk: Walk) -> Json:
        return {**filters, **sweep.query(walk)}

    return Step(path, sweep.take_page, query, _nightly, end=sweep.end, marks=True)


def _whole(path: str, kind: str, **filters: str) -> Step:
    return Step(path, Sweep(kind).take_page, lambda _: dict(filters), marks=True)


OPEN_PAYMENT_INTENTS = frozenset(
    {
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "requires_capture",
        "processing",
    }
)
OPEN_DISPUTES = frozenset(
    {"warning_needs_response", "warning_under_review", "needs_response", "under_review"}
)
OPEN_SUBSCRIPTIONS = frozenset({"incomplete", "trialing", "active", "past_due", "unpaid", "paused"})

_SWEEPS: Mapping[str, tuple[str, Sweep, dict[str, str]]] = {
    "sweep:subscription": ("/v1/subscriptions", Sweep("subscription", OPEN_SUBSCRIPTIONS), {}),
    "sweep:invoice:draft": (
        "/v1/invoices",
        Sweep("invoice", frozenset({"draft"})),
        {"status": "draft"},
    ),
    "sweep:invoice:open": (
        "/v1/invoices",
        Sweep("invoice", frozenset({"open"})),
        {"status": "open"},
    ),
    "sweep:payment_intent": (
        "/v1/payment_intents",
        Sweep("payment_intent", OPEN_PAYMENT_INTENTS, timedelta(days=35)),
        {},
    ),
    "sweep:dispute": ("/v1/disputes", Sweep("dispute", OPEN_DISPUTES, timedelta(days=120)), {}),
    "sweep:payout:pending": (
        "/v1/payouts",
        Sweep("payout", frozenset({"pending"})),
        {"status": "pending"},
    ),
    "sweep:payout:in_transit": (
        "/v1/payouts",
        Sweep("payout", frozenset({"in_transit"})),
        {"status": "in_transit"},
    ),
}

CLOCKS = "/v1/test_helpers/test_clocks"
ONLY_IN_TEST_MODE = frozenset({"sweep:test_clock"})

TIMED: Mapping[str, Step] = {
    "events": Step(
        "/v1/events",
        finding.take_page,
        lambda walk: {"created": {"gte": int(finding.since(walk).timestamp())}},
        gap_fill_next,
        begin=finding.begin,
        end=sweeps.look_for_transactions,
    ),
    "undelivered": Step(
        "/v1/events",
        finding.take_undelivered,
        finding.undelivered_query,
        undelivered_next,
    ),
    "sweep:balance_transaction": Step(
        "/v1/balance_transactions", sweeps.record_page, sweeps.transactions_query, _nightly
    ),
    "sweep:test_clock": Step(
        CLOCKS, ClockSweep(("subscription",)).take_page, next_at=_nightly, marks=True
    ),
    **{
        name: _sweep(path, sweep, **filters)
        for name, (path, sweep, filters) in _SWEEPS.items()
        if sweep.kind in MIRRORED
    },
}
"""Read again and again, for every account that can be called."""

WHOLE_ACCOUNT: Mapping[str, Step] = {
    **{
        WHOLE + kind: _whole(path, kind, **filters)
        for kind, (path, filters) in LISTS.items()
        if kind in MIRRORED
    },
    f"{WHOLE}test_clock": Step(
        CLOCKS, ClockSweep(("customer", "subscription")).take_page, marks=True
    ),
    f"{WHOLE}balance_transaction": Step(
        "/v1/balance_transactions", sweeps.record_page, sweeps.all_transactions_query
    ),
}
"""Read from end to end when an account is synchronized anew; parents before what names them."""

STEPS: Mapping[str, Step] = {**TIMED, **WHOLE_ACCOUNT}


def timed_steps(mode: Mode) -> list[str]:
    """The steps that every account of a mode has."""
    return [step for step in TIMED if mode == "test" or step not in ONLY_IN_TEST_MODE]


def first_turns(settings: Settings, account: str, mode: Mode, now: datetime) -> dict[str, datetime]:
    """When each timed step of an account that was just found is due first."""
    night = tonight(settings, account, now)
    at_once = ("events", "undelivered")
    return {step: now if step in at_once else night for step in timed_steps(mode)}
