"""Switches that make the sandbox misbehave as Stripe and networks do."""

import random
from dataclasses import asdict, dataclass
from typing import Any

API_KINDS = ("error", "delay", "cut")
WEBHOOK_KINDS = ("webhook_delay", "webhook_duplicate", "webhook_reorder", "webhook_drop")
FAULTS_MAX = 100
SECONDS_MAX = 600.0


@dataclass
class Fault:
    """One fault: what happens, to which calls or events, how often.

    `count` is how often it strikes still (None: without end); `probability` is drawn from the
    seed for every candidate. `moment` says whether a failing call had its effect already
    (`after`) or not (`before`); `stored` whether the failure is kept under the idempotency key,
    as Stripe keeps a 500.
    """

    id: str
    kind: str
    status: int = 500
    method: str | None = None
    path: str | None = None
    type: str | None = None
    account: str | None = None
    count: int | None = None
    probability: float = 1.0
    seconds: float = 1.0
    moment: str = "before"
    stored: bool = True
    struck: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the fault as the control API shows it."""
        return asdict(self)


class FaultBoard:
    """The faults that are switched on."""

    def __init__(self, seed: str | None) -> None:
        self._random = random.Random(seed)
        self._faults: dict[str, Fault] = {}
        self._number = 0

    def all(self) -> list[Fault]:
        """Return the faults that are on, oldest first."""
        return list(self._faults.values())

    def add(self, wish: dict[str, Any]) -> Fault:
        """Switch a fault on.

        Raises:
            ValueError: the wish is no fault; the message says why.
        """
        if len(self._faults) >= FAULTS_MAX:
            raise ValueError(f"at most {FAULTS_MAX} faults may be on; DELETE /_sim/faults first")
        kind = wish.get("kind")
        if kind not in API_KINDS + WEBHOOK_KINDS:
            raise ValueError(f"kind must be one of {', '.join(API_KINDS + WEBHOOK_KINDS)}")
        unknown = set(wish) - set(Fault.__dataclass_fields__) | set(wish) & {"id", "struck"}
        if unknown:
            raise ValueError(f"unknown field: {', '.join(sorted(unknown))}")
        _check(wish)
        self._number += 1
        fault = Fault(id=f"fault_{self._number}", **wish)
        self._faults[fault.id] = fault
        return fault

    def clear(self, fault_id: str | None = None) -> int:
        """Switch one fault, or all, off; return how many were on."""
        if fault_id is None:
            number = len(self._faults)
            self._faults.clear()
            return number
        return 1 if self._faults.pop(fault_id, None) else 0

    def strike_call(self, kind: str, method: str, path: str, account: str) -> Fault | None:
        """Return the fault of this kind that hits this call, using up one of its count."""
        for fault in self._of(kind):
            if fault.method in (None, method) and fault.account in (None, account):
                if fault.path is not None and not path.startswith(fault.path):
                    continue
                if self._hits(fault):
                    return fault
        return None

    def strike_event(self, kind: str, event_type: str, account: str) -> Fault | None:
        """Return the fault of this kind that hits this event, using up one of its count."""
        for fault in self._of(kind):
            meant = fault.type in (None, event_type) and fault.account in (None, account)
            if meant and self._hits(fault):
                return fault
        return None

    def jitter(self) -> float:
        """Return a seeded number in [0, 1)."""
        return self._random.random()

    def _of(self, kind: str) -> list[Fault]:
        return [fault for fault in self._faults.values() if fault.kind == kind]

    def _hits(self, fault: Fault) -> bool:
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        fault.struck += 1
        if fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                self._faults.pop(fault.id, None)
        return True


def _check(wish: dict[str, Any]) -> None:
    for name in ("method", "path", "type", "account"):
        if not isinstance(wish.get(name), str | None):
            raise ValueError(f"{name} must be a string")  # noqa: TRY004 - one kind of refusal
    count = wish.get("count")
    if count is not None and (type(count) is not int or count < 1):
        raise ValueError("count must be a whole number from 1, or null: without end")
    for name, most in (("probability", 1.0), ("seconds", SECONDS_MAX)):
        value = wish.get(name, most)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError(f"{name} must be a number from 0 to {most}")
    status = wish.get("status", 500)
    if type(status) is not int or status not in (400, 401, 402, 403, 404, 409, 429, 500, 502, 503):
        raise ValueError("status must be an HTTP error that Stripe uses, such as 429 or 500")
    if wish.get("moment", "before") not in ("before", "after"):
        raise ValueError("moment must be before or after")
    if not isinstance(wish.get("stored", True), bool):
        raise ValueError("stored must be true or false")  # noqa: TRY004 - likewise
