"""Which keys and secrets this process has used, told as `KeyUsed` at most once a minute each.

    KEY_USES.note(tenant_id, mode, "api_key", key_id)

Noting is a dictionary entry: it costs a request nothing and never fails it. A job of every
service's runtime tells what is due through the outbox. Uses of the last moments before a process
ends are not told: "last used" is for people, not for deciding.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.audit import KeyUsed
from libs.db.pool import Database
from libs.db.tenant import Mode, Scope
from libs.messaging.outbox import emit

KeyKind = Literal["api_key", "stripe_secret_key", "stripe_webhook_secret"]

PAUSE = timedelta(minutes=1)
"""Between two tellings of the same key by one process."""
NOTED_MAX = 20_000
"""Keys kept in memory; a further one is not noted until others have been told."""
TOLD_AT_ONCE_MAX = 500


class UsedKey(NamedTuple):
    """A version of a key or secret of a tenant."""

    tenant_id: UUID
    mode: Mode
    kind: KeyKind
    object_id: UUID
    version: int


@dataclass
class _Use:
    used_at: datetime
    told_at: datetime | None = None


class KeyUses:
    """The latest use of each key in this process, until it is told."""

    def __init__(self) -> None:
        self._uses: dict[UsedKey, _Use] = {}

    def note(
        self,
        tenant_id: UUID,
        mode: Mode,
        kind: KeyKind,
        object_id: UUID,
        *,
        version: int = 1,
    ) -> None:
        """The key was used just now."""
        key = UsedKey(tenant_id, mode, kind, object_id, version)
        use = self._uses.get(key)
        if use is not None:
            use.used_at = utc_now()
        elif len(self._uses) < NOTED_MAX:
            self._uses[key] = _Use(utc_now())

    def due(self, now: datetime) -> list[tuple[UsedKey, datetime]]:
        """Uses to be told now, those of a tenant and mode together; what was told is forgotten."""
        for key, use in list(self._uses.items()):
            if use.told_at is not None and use.used_at <= use.told_at <= now - PAUSE:
                del self._uses[key]
        found = [
            (key, use.used_at)
            for key, use in self._uses.items()
            if use.told_at is None or use.told_at <= now - PAUSE
        ]
        return sorted(found[:TOLD_AT_ONCE_MAX])

    async def tell(self, database: Database) -> None:
        """Tell what is due, in one commit. What cannot be committed stays due."""
        now = utc_now()
        due = self.due(now)
        if not due:
            return
        async with database.transaction() as tx:
            for key, used_at in due:
                await tx.enter(Scope((key.tenant_id,), key.mode))
                used = KeyUsed(
                    kind=key.kind,
                    object_id=str(key.object_id),
                    version=key.version,
                    service=database.service,
                    used_at=used_at,
                )
                emit(tx, used, effective_at=used_at)
        for key, _ in due:
            if key in self._uses:
                self._uses[key].told_at = now


KEY_USES = KeyUses()
"""Of this process."""
