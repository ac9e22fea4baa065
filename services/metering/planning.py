"""What becomes of planned usage: admitted, deferred or refused; pure, without clock or database.

Decided is only when an occurrence is due, by holding it as any reservation is held. Until then what is
said of it is foreseen: by what is used, held and planned before it, as if nothing else were used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple
from uuid import UUID

from services.metering.limits import Check, fits
from services.metering.measuring import EXACT

Outcome = Literal["admitted", "deferred", "refused"]

Reason = Literal["held", "next_period", "credit", "over_limit", "limit_reached", "missed"]
"""Why not admitted: what is left is held by reservations; the next period has room; credit does not pay
for it; it is more than the whole limit; no period has room in time; nobody could look at it in time."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of an occurrence, and by which bound.

    Attributes:
        used, limit: of the bound that decided: the plan's, or credit's; None where there is none.
        passes_at: of what is deferred, when there will be room; None: nobody knows.
    """

    outcome: Outcome
    reason: Reason | None = None
    used: Decimal | None = None
    limit: Decimal | None = None
    passes_at: datetime | None = None


class Slot(NamedTuple):
    """An occurrence that is not decided.

    Attributes:
        at, until: from when on it is due, and how long it may wait.
    """

    at: datetime
    planned_id: UUID
    number: int
    until: datetime
    quantity: Decimal


Ends = Callable[[datetime], datetime]
"""When the period ends that a moment lies in."""


def judge(quantity: Decimal, check: Check, period_end: datetime, until: datetime) -> Verdict:
    """What becomes of a quantity that is due.

    Args:
        check: of this quantity, in the period that runs.
        until: how long it may wait.
    """
    if check.allowed:
        return Verdict("admitted", None, check.used, check.limit)
    limit = check.limit
    if (
        limit is not None
        and check.kind == "hard"
        and not fits(quantity, check.used, check.reserved, limit)
    ):
        refusal = Verdict("refused", "limit_reached", check.used, limit)
        if quantity > limit:
            return replace(refusal, reason="over_limit")
        if fits(quantity, check.used, Decimal(0), limit):
            return replace(refusal, outcome="deferred", reason="held")
        if period_end < until:
            return replace(refusal, outcome="deferred", reason="next_period", passes_at=period_end)
        return refusal
    credit = check.credit
    assert credit is not None, "either the plan or credit refuses"
    return Verdict("deferred", "credit", credit.used, credit.limit)


def foresee(
    slots: Sequence[Slot], standing: Check, period_end: datetime, end_at: Ends
) -> dict[tuple[UUID, int], Verdict]:
    """What will become of occurrences, each after those before it.

    Args:
        slots: all that is planned of one limit.
        standing: how the limit stands in the period that runs.
        period_end: of that period.
        end_at: of those after it.
    """
    found = {}
    of_period = of_all = Decimal(0)
    for slot in sorted(slots):
        if slot.at >= period_end:
            period_end = end_at(slot.at)
            of_period = Decimal(0)
            standing = replace(standing, used=Decimal(0), reserved=Decimal(0))
        check = _checked(standing, slot.quantity, of_period, of_all)
        verdict = judge(slot.quantity, check, period_end, slot.until)
        found[slot.planned_id, slot.number] = verdict
        if verdict.outcome == "admitted":
            of_period = EXACT.add(of_period, slot.quantity)
            of_all = EXACT.add(of_all, slot.quantity)
    return found


def _checked(standing: Check, quantity: Decimal, of_period: Decimal, of_all: Decimal) -> Check:
    """How the limits stand when what is planned before is used."""
    used, credit = EXACT.add(standing.used, of_period), standing.credit
    within = standing.limit is None or standing.kind == "soft"
    if standing.limit is not None and not within:
        within = fits(quantity, used, standing.reserved, standing.limit)
    paid_for = True
    if credit is not None:
        credit = replace(credit, used=EXACT.add(credit.used, of_all))
        paid_for = fits(quantity, credit.used, standing.reserved, credit.limit)
    return replace(standing, used=used, credit=credit, allowed=within and paid_for)
