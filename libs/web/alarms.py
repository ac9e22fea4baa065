"""Security events of requests: who was refused what, or acted for another tenant (requirement T3)."""

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

ABSENT_TOLD_AT_ONCE = 20
ABSENT_TOLD_PER_SECOND = 0.1
"""How many of a caller's look-ups that found nothing stand in the log; the metric counts each."""

Severity = Literal["info", "warning"]

_ONLY_TO_BE_KNOWN = frozenset({"operator_access", "object_absent"})
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


class Alarms:
    """Raises the security events of one service's requests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._absent_told = RateLimiter(ABSENT_TOLD_PER_SECOND, ABSENT_TOLD_AT_ONCE)

    async def tell(
        self, request: Request, whom: Concerned, kind: str, permission: str | None
    ) -> None:
        """Record who, what, which permission, role and severity."""
        severity = _count(kind)
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
                ),
            )

    async def tell_absent(self, request: Request, whom: Concerned, permission: str) -> None:
        """Record that something was named which the caller cannot see.

        Another tenant's object and one that nobody has are alike to the caller, and here: neither the
        answer nor the work tells which it was. Whoever asks for thousands fills no log.
        """
        in_path = request.path_params.keys() - {"tenant"}
        if not in_path and request.method in ("GET", "DELETE"):
            return
        if self._absent_told.wait_seconds(whom.actor):
            _count("object_absent")
            return
        await self.tell(request, whom, "object_absent", permission)


def _count(kind: str) -> Severity:
    """Count the event; its severity."""
    severity: Severity = "info" if kind in _ONLY_TO_BE_KNOWN else "warning"
    SECURITY_EVENTS_TOTAL.labels(kind=kind, severity=severity).inc()
    return severity
