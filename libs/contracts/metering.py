"""Events of the metering service: quantities, never prices."""

from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime

from libs.contracts.envelope import Fact

Aggregation = Literal[
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "unique_count",
    "latest",
    "percentile",
    "time_weighted_sum",
]

TimeUnit = Literal["second", "minute", "hour", "day"]
"""What a level is measured over: gigabytes by the `hour` make gigabyte-hours."""


class MeterCreated(Fact):
    """A meter was defined; its tenant is the biller (`platform` for the platform's meters).

    Attributes:
        percentile: which one, of a `percentile`.
        time_unit: of a `time_weighted_sum`.
    """

    meter_id: UUID
    key: str
    event_type: str
    aggregation: Aggregation
    value_path: str | None = None
    group_by: tuple[str, ...] = ()
    percentile: Decimal | None = None
    time_unit: TimeUnit | None = None


class PeriodUsage(Fact):
    """The exact quantity of one meter in a closed period; answers `UsagePeriodClosed`.

    Attributes:
        closure_id: the request this answers.
        revision: 1 for the first answer; a late event makes the next.
        period_from, period_to: whole minutes, the end not included.
    """

    closure_id: UUID
    subscription_id: UUID
    customer_id: UUID
    meter: str
    period_from: AwareDatetime
    period_to: AwareDatetime
    revision: int
    quantity: Decimal
    event_count: int


class LimitThresholdCrossed(Fact):
    """Usage reached a share of a plan's limit; told once for each in a period.

    Attributes:
        limit: the whole limit, of the plan that held when this was found.
        percent: the share that was reached.
        used: what had been used of the period by then; it may have gone far beyond the share.
    """

    subscription_id: UUID
    customer_id: UUID
    meter: str
    period_from: AwareDatetime
    period_to: AwareDatetime
    limit: Decimal
    kind: Literal["soft", "hard"]
    percent: int
    used: Decimal


class LimitExceeded(Fact):
    """Usage went beyond a plan's limit; told once for each limit and period.

    Beyond a soft limit it is charged. Beyond a hard limit it came in all the same: it is counted,
    and flagged by this.

    Attributes:
        used, over: what had been used of the period by then, and what of it lies beyond.
    """

    subscription_id: UUID
    customer_id: UUID
    meter: str
    period_from: AwareDatetime
    period_to: AwareDatetime
    limit: Decimal
    kind: Literal["soft", "hard"]
    used: Decimal
    over: Decimal
