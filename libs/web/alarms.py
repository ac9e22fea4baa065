"""Security events of requests: who was refused what, or acted for another tenant (requirement T3).

Each is counted. Of the refusals of one caller so many are told at once, and then one now and then that
says how many were left out: whoever is refused all day fills no log.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import structlog
from fastapi import Request

from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.db.pool import Database
from libs.messaging.outbox import emit
from libs.observability.metrics import SECURITY_EVENTS_TOTAL
from libs.web.limits import RateLimiter

log = structlog.get_logger()

REFUSALS_TOLD_AT_ONCE = 100
ABSENT_TOLD_AT_ONCE = 20
TOLD_PER_SECOND = 0.1
"""How many refusals of one kind, and look-ups that found nothing, of one caller stand in the log."""

LEFT_OUT_KEYS_MAX = 10_000

Severity = Literal["info", "warning"]

OPERATOR_ACCESS = "operator_access"

_ONLY_TO_BE_KNOWN = frozenset({OPERATOR_ACCESS, "object_absent"})
"""Kinds that are no refusal of a person, or mostly a mistake: `info`. All others are a `warning`."""


@dataclass(frozen=True)
class Concerned:
    """Whose log tells of it, and of whom.

    Attributes:
        role: the member's role; None for an API key.
    """

    tenant_id: UUID
    mode: Mode
    actor: str
    role: str | None


class Telling:
    """Which events of one process are told, and how many were left out before each."""

    def __init__(self) -> None:
        self._refusals = RateLimiter(TOLD_PER_SECOND, REFUSALS_TOLD_AT_ONCE)
        self._absent = RateLimiter(TOLD_PER_SECOND, ABSENT_TOLD_AT_ONCE)
        self._left_out: OrderedDict[str, int] = OrderedDict()

    def left_out(self, kind: str, tenant_id: UUID, actor: str) -> int | None:
        """How many events like this one were left out since the last; None: so is this one.

        What an operator does for a tenant is told each time: it is no refusal but an act.
        """
        if kind == OPERATOR_ACCESS:
            return 0
        # In each tenant's log by itself: nobody learns what a person is refused elsewhere.
        key = f"{kind} {tenant_id} {actor}"
        limiter = self._absent if kind == "object_absent" else self._refusals
        left_out = self._left_out.pop(key, 0)
        if not limiter.wait_seconds(key):
            return left_out
        self._left_out[key] = left_out + 1
        if len(self._left_out) > LEFT_OUT_KEYS_MAX:
            self._left_out.popitem(last=False)
        return None


class Alarms:
    """Raises the security events of one service's requests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._telling = Telling()

    async def tell(
        self, request: Request, whom: Concerned, kind: str, permission: str | None
    ) -> None:
        """Record who, what, which permission, role and severity, unless it is left out."""
        severity = _severity(kind)
        left_out = self.count(whom.tenant_id, whom.actor, kind)
        if left_out is None:
            return
        log.warning(kind, actor=whom.actor, path=request.url.path, permission=permission)
        async with self._database.tenant(whom.tenant_id, whom.mode) as tx:
            emit(
                tx,
                SecurityEventRaised(
                    kind=kind,
                    severity=severity,
                    actor=whom.actor,
                    service=self._database.service,
                    method=request.method,
                    path=request.url.path[:500],
                    permission=permission,
                    role=whom.role,
                    left_out=left_out or None,
                ),
            )

    def count(self, tenant_id: UUID, actor: str, kind: str) -> int | None:
        """Count an event; how many like it were left out before it, None where it is one of them."""
        SECURITY_EVENTS_TOTAL.labels(kind=kind, severity=_severity(kind)).inc()
        return self._telling.left_out(kind, tenant_id, actor)

    async def tell_absent(self, request: Request, whom: Concerned, permission: str) -> None:
        """Record that something was named which the caller cannot see.

        Another tenant's object and one that nobody has are alike to the caller, and here: neither the
        answer nor the work tells which it was.
        """
        in_path = request.path_params.keys() - {"tenant"}
        if not in_path and request.method in ("GET", "DELETE"):
            return
        await self.tell(request, whom, "object_absent", permission)


def _severity(kind: str) -> Severity:
    return "info" if kind in _ONLY_TO_BE_KNOWN else "warning"
