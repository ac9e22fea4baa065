"""Replays that only ask what would change: the latest of each object is compared with the mirror.

Nothing is written but the answer, and nothing at Stripe is changed: not even a draft is held.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Envelope
from libs.contracts.gateway import StripeEventReceived, WebhookReplayCanceled
from libs.db.pool import Database, Tx
from libs.db.tenant import Mode
from services.stripe_sync import fetching, store_checks, store_connections, store_walks
from services.stripe_sync.client import Json, StripeCallError, StripeStoppedError
from services.stripe_sync.crew import Crew
from services.stripe_sync.finding import KEPT_FOR
from services.stripe_sync.identities import Identities, Identity
from services.stripe_sync.marks import BALANCE, dirty_objects
from services.stripe_sync.objects import mirrored
from services.stripe_sync.store_checks import Check

log = structlog.get_logger()

ACCOUNTS_AT_ONCE_MAX = 4
SERVED_MAX = 1_000
"""So many accounts are known to have had a turn; the others are served before them."""
BATCH_OBJECTS = 50
ATTEMPTS_MAX = 8
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 1.0, 60.0
LATE = timedelta(days=1)
"""So long after a dry run was canceled its last events may arrive."""
FIELDS_MAX = 20
VALUE_LENGTH_MAX = 200
NOT_CONNECTED = "the tenant has not connected this account"
"""It may have been the tenant's before: its latest state is its present owner's alone."""


async def take_event(tx: Tx, event: Envelope[StripeEventReceived]) -> None:
    """Enter what the event is about, to be compared."""
    fact = event.data
    elsewhere = {BALANCE, ("account", fact.object_id)} - {("account", fact.account)}
    objects = [pair for pair in dirty_objects(fact) if pair not in elsewhere]
    if fact.replay_id is not None:
        await store_checks.enter(tx, fact.replay_id, fact.account, objects, event.occurred_at)


async def take_cancellation(tx: Tx, event: Envelope[WebhookReplayCanceled]) -> None:
    """Compare nothing more for a dry run; what is still on its way, or is others', goes by `clean`."""
    replay_id = event.data.replay_id
    await store_checks.note_canceled(tx, replay_id, event.occurred_at)
    await store_checks.drop_pending(tx, replay_id)


async def clean(database: Database, now: datetime) -> None:
    """Forget what of canceled dry runs waits to be compared, and all of long ago."""
    async with database.maintenance() as tx:
        await store_checks.drop_canceled(tx, now - LATE)
        await store_checks.prune(tx, now - KEPT_FOR)


def changes_between(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> dict[str, Json]:
    """The fields that differ, each as it is in the mirror and as it would be.

    Both are without anything of people already.
    """
    was, would_be = before or {}, after or {}
    names = [name for name in {*was, *would_be} if was.get(name) != would_be.get(name)]
    # Of very many the status is what people look for.
    names.sort(key=lambda name: (name != "status", name))
    return {
        name: {"before": _shown(was.get(name)), "after": _shown(would_be.get(name))}
        for name in names[:FIELDS_MAX]
    }


def _shown(value: Any) -> str | int | bool | None:
    """A value as it is shown: plain, or as the beginning of its JSON."""
    if value is None or isinstance(value, bool | int):
        return value
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text[:VALUE_LENGTH_MAX]


@dataclass(frozen=True)
class Checker:
    """The comparisons of one account."""

    database: Database
    identity: Identity

    async def run_once(self) -> int:
        """Compare what is due; how many objects that were."""
        account, mode = self.identity.account, self.identity.mode
        async with self.database.maintenance() as tx:
            due = await store_checks.due(tx, account, mode, utc_now(), BATCH_OBJECTS)
        for check in due:
            await self._compare(check)
        return len(due)

    async def _compare(self, check: Check) -> None:
        api, is_platform = self.identity.api, self.identity.is_platform
        if not is_platform and self.identity.tenant_id != check.tenant_id:
            await self._end(check, "failed", {}, NOT_CONNECTED)
            return
        try:
            fetched = await fetching.fetch(api, check.object_type, check.object_id, holds=False)
        except StripeStoppedError as error:
            await self._end(check, "failed", {}, str(error))
            return
        except StripeCallError as error:
            await self._later(check, str(error))
            return
        except Exception as error:  # noqa: BLE001 - one odd object must not hold up the others
            await self._end(check, "failed", {}, f"{type(error).__name__}: {error}")
            return
        latest = mirrored(check.object_type, fetched.raw) if fetched else None
        async with self.database.maintenance() as tx:
            # Each call to Stripe asks anew whose the account is: it may have moved since the batch.
            now_of = await store_connections.tenant_of(tx, check.account, check.mode)
            kept = await store_walks.mirrored(
                tx, check.account, check.mode, check.object_type, [check.object_id]
            )
        if not is_platform and now_of != check.tenant_id:
            await self._end(check, "failed", {}, NOT_CONNECTED)
            return
        changes = changes_between(kept.get(check.object_id), latest)
        await self._end(check, "different" if changes else "same", changes, None)

    async def _end(self, check: Check, state: str, changes: Json, error: str | None) -> None:
        async with self.database.tenant(check.tenant_id, check.mode) as tx:
            await store_checks.end(tx, check, state, changes, error)

    async def _later(self, check: Check, error: str) -> None:
        if check.attempts + 1 >= ATTEMPTS_MAX:
            await self._end(check, "failed", {}, error)
            return
        pause = min(PAUSE_SECONDS_MIN * 2**check.attempts, PAUSE_SECONDS_MAX)
        async with self.database.tenant(check.tenant_id, check.mode) as tx:
            await store_checks.postpone(tx, check, utc_now() + timedelta(seconds=pause), error)


class Checking:
    """The comparisons of all accounts."""

    def __init__(self, database: Database, identities: Identities) -> None:
        self._database = database
        self._identities = identities
        self._served: dict[tuple[str, Mode], None] = {}
        self.crew: Crew[tuple[str, Mode]] = Crew("compare", self._check, most=ACCOUNTS_AT_ONCE_MAX)

    async def run_once(self) -> None:
        """Take up the accounts with something to compare."""
        self.crew.take_up(await self.due())

    async def due(self) -> list[tuple[str, Mode]]:
        """Accounts with something to compare."""
        async with self._database.maintenance() as tx:
            return await store_checks.due_accounts(
                tx, utc_now(), self.crew.busy, list(self._served), ACCOUNTS_AT_ONCE_MAX
            )

    async def _check(self, of: tuple[str, Mode]) -> None:
        self._served.pop(of, None)
        while len(self._served) >= SERVED_MAX:
            del self._served[next(iter(self._served))]
        self._served[of] = None
        identity = await self._identities.of(*of)
        if identity is not None:
            await Checker(self._database, identity).run_once()
            return
        async with self._database.maintenance() as tx:
            due = await store_checks.due(tx, *of, utc_now(), BATCH_OBJECTS)
        for check in due:
            async with self._database.tenant(check.tenant_id, check.mode) as tx:
                await store_checks.end(tx, check, "failed", {}, "nobody has connected the account")
