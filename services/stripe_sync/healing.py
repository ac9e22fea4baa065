"""Reading Stripe's lists for what never reached us: one page at a time, and where it stopped before.

Each account has its walks (`walk_steps`) and its own turn, under a lease. A run is done only when its
whole list was read; one that met a rate limit or an error goes on later at the same page. Doing a
page twice has no second effect, so a crash between a page and its note harms nobody.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from libs.clock import utc_now
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.db.tenant import Mode
from libs.directory.local import Directory
from libs.observability.metrics import STRIPE_UNDELIVERED_EVENTS
from services.stripe_sync import checks, finding, resync, store_events, store_walks
from services.stripe_sync.client import (
    PAGE_SIZE,
    Json,
    StripeAccessError,
    StripeCallError,
    StripeRefusedError,
    StripeStoppedError,
)
from services.stripe_sync.crew import Crew
from services.stripe_sync.identities import CALLABLE_STATUSES, Identities, Identity
from services.stripe_sync.lease import leased, renew
from services.stripe_sync.owners import UnknownOwnerError
from services.stripe_sync.settings import Settings
from services.stripe_sync.store_walks import Walk
from services.stripe_sync.walk_steps import STEPS, WHOLE_ACCOUNT, first_turns, timed_steps
from services.stripe_sync.walks import Step, Visit

log = structlog.get_logger()

MODES: tuple[Mode, ...] = ("live", "test")
ACCOUNTS_AT_ONCE_MAX = 8
ENROLLED_AT_ONCE_MAX = 200
RUN_SECONDS_MAX = 20.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 5.0, 900.0
DOUBLINGS_MAX = 8
STOPPED_PAUSE = timedelta(minutes=5)
REFUSED_PAUSE = timedelta(hours=1)
ODD_PAUSE = timedelta(minutes=10)
DIRTY_MAX = 500
"""Objects of an account that may wait to be fetched before its lists are left alone for a moment."""
DIRTY_PAUSE = timedelta(seconds=5)


@dataclass(frozen=True)
class AccountHealer:
    """The walks of one account in one mode."""

    database: Database
    directory: Directory
    settings: Settings
    identity: Identity

    async def run_once(self) -> int:
        """Read what is due, for a bounded time; how many pages that were."""
        account, mode = self.identity.account, self.identity.mode
        pages = 0
        async with leased(self.database, f"healing:{account}:{mode}") as lease:
            ends = utc_now() + timedelta(seconds=RUN_SECONDS_MAX)
            while lease is not None and utc_now() < ends and await renew(self.database, lease):
                async with self.database.transaction() as tx:
                    walk = await store_walks.take_up(tx, account, mode, utc_now())
                if walk is None or not await self._visit(walk):
                    break
                pages += 1
        return pages

    async def _visit(self, walk: Walk) -> bool:
        """Read a page of a walk; False where the account is to be left alone for now."""
        step = STEPS.get(walk.step)
        if step is None:
            await self._postpone(walk, REFUSED_PAUSE, "no such step any more")
            return True
        if step.marks and await self._is_busy(walk):
            return True
        try:
            await self._read(walk, step)
        except StripeStoppedError as error:
            async with self.database.transaction() as tx:
                until = utc_now() + STOPPED_PAUSE
                await store_walks.rest(tx, walk.account, walk.mode, until, str(error))
            log.warning("stripe_account_rests", account=walk.account, reason=str(error))
            return False
        except (StripeRefusedError, StripeAccessError) as error:
            await self._refused(walk, error)
            return True
        except (StripeCallError, UnknownOwnerError) as error:
            doubled = PAUSE_SECONDS_MIN * 2 ** min(walk.attempts, DOUBLINGS_MAX)
            pause = timedelta(seconds=min(doubled, PAUSE_SECONDS_MAX))
            await self._postpone(walk, pause, str(error))
            return isinstance(error, UnknownOwnerError)
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - one odd list must not hold up the others
            detail = f"{type(error).__name__}: {error}"
            log.error("stripe_list_odd", account=walk.account, step=walk.step, error=detail)  # noqa: TRY400
            await self._postpone(walk, ODD_PAUSE, detail)
        return True

    async def _read(self, walk: Walk, step: Step) -> None:
        visit = Visit(self.database, self.directory, self.settings, self.identity, walk)
        if walk.is_first_page and step.begin is not None:
            await step.begin(visit)
        place = {"starting_after": walk.after_id} if walk.after_id else {}
        query = {**step.query(walk), "limit": PAGE_SIZE, **place}
        page = await self.identity.api.get(step.operation, step.path, query)
        found: list[Json] = page["data"]
        counted = await step.take_page(visit, found) if found else 0
        now = utc_now()
        if page["has_more"] and found:
            async with self.database.transaction() as tx:
                after_id = found[-1]["id"]
                await store_walks.go_on(
                    tx, walk, after_id, listed=len(found), counted=counted, now=now
                )
            return
        if step.end is not None:
            counted += await step.end(visit)
        next_at = step.next_at(self.settings, walk, now)
        await self._finish(walk, listed=len(found), counted=counted, next_at=next_at)

    async def _finish(
        self,
        walk: Walk,
        *,
        listed: int = 0,
        counted: int = 0,
        next_at: datetime | None = None,
        refusal: str | None = None,
    ) -> None:
        now = utc_now()
        async with self.database.tenant(self.identity.tenant_id, walk.mode) as tx:
            await store_walks.finish(
                tx, walk, listed=listed, counted=counted, next_at=next_at, refusal=refusal
            )
            if walk.step in WHOLE_ACCOUNT and await resync.end_where_done(
                tx, walk.account, now=now
            ):
                log.info("stripe_account_synchronized", account=walk.account, mode=walk.mode)

    async def _refused(self, walk: Walk, error: StripeCallError) -> None:
        """The place where it stopped may be gone, or the key may not list this: not soon again."""
        if walk.after_id is not None:
            await self._postpone(walk, timedelta(), str(error), anew=True)
        elif walk.step in WHOLE_ACCOUNT and isinstance(error, StripeAccessError):
            # The run ends without this list, and tells so: the key may never be given the right.
            await self._finish(walk, refusal=str(error))
        else:
            await self._postpone(walk, REFUSED_PAUSE, str(error))

    async def _is_busy(self, walk: Walk) -> bool:
        """Whether so much waits to be fetched that more would only wait behind it."""
        async with self.database.maintenance() as tx:
            dirty = await store_walks.dirty_count(tx, walk.account, walk.mode, DIRTY_MAX)
        if dirty < DIRTY_MAX:
            return False
        async with self.database.transaction() as tx:
            await store_walks.wait(tx, walk, utc_now() + DIRTY_PAUSE)
        return True

    async def _postpone(
        self, walk: Walk, pause: timedelta, error: str, *, anew: bool = False
    ) -> None:
        log.info("stripe_walk_postponed", account=walk.account, step=walk.step, error=error)
        async with self.database.transaction() as tx:
            await store_walks.postpone(tx, walk, utc_now() + pause, error, anew=anew)


class Healing:
    """The walks of all accounts that can be called."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        identities: Identities,
        settings: Settings,
    ) -> None:
        self._database = database
        self._directory = directory
        self._identities = identities
        self._settings = settings
        self.crew: Crew[tuple[str, Mode]] = Crew("heal", self._heal, most=ACCOUNTS_AT_ONCE_MAX)

    async def run_once(self) -> None:
        """Take up the accounts whose turn it is."""
        async with self._database.maintenance() as tx:
            due = await store_walks.due_accounts(
                tx,
                utc_now(),
                self._identities.platforms(),
                sorted(CALLABLE_STATUSES),
                self.crew.busy,
                ACCOUNTS_AT_ONCE_MAX,
            )
        self.crew.take_up(due)

    async def enrol(self) -> None:
        """Give every account that can be called its walks; forget what is too old to be found."""
        now = utc_now()
        for mode in MODES:
            await self._enrol(mode, now)
        async with self._database.maintenance() as tx:
            STRIPE_UNDELIVERED_EVENTS.set(await store_walks.counted_last(tx, "undelivered"))
            await store_events.prune_found(tx, now - finding.KEPT_FOR)
        await checks.clean(self._database, now)
        async with self._database.transaction() as tx:
            await store_events.prune_taken(tx, now - finding.KEPT_FOR)

    async def _enrol(self, mode: Mode, now: datetime) -> None:
        async with self._database.maintenance() as tx:
            lacking = await store_walks.lacking_accounts(
                tx,
                mode,
                sorted(CALLABLE_STATUSES),
                timed_steps(mode),
                ENROLLED_AT_ONCE_MAX,
                platform=self._identities.platform(mode) is not None,
            )
        async with self._database.transaction() as tx:
            for account in lacking:
                turns = first_turns(self._settings, account, mode, now)
                await store_walks.enrol(tx, account, mode, now, turns)

    async def _heal(self, of: tuple[str, Mode]) -> None:
        identity = await self._identities.of(*of)
        if identity is not None:
            await AccountHealer(
                self._database, self._directory, self._settings, identity
            ).run_once()
            return
        async with self._database.transaction() as tx:
            until = utc_now() + STOPPED_PAUSE
            await store_walks.rest(tx, *of, until, "nobody has connected the account")
