"""What became of payment requests that nobody saw the answer of.

A caller's own try is over after a minute and a half at most; whatever is open then is looked up at
Stripe, or sent again as it was, until it is done or refused. What nobody can ask about for a day ends
as unknown: the mirror corrects it if the account ever comes back. A refund that ended so counts as
given back, and is looked for again until Stripe says whether it has it.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.db.pool import TRANSIENT_ERRORS, Database, Row
from libs.directory.local import Directory, Tenant, business_now
from libs.observability.metrics import PAYMENT_REQUESTS_OLDEST_AGE_SECONDS
from services.stripe_sync import store_requests
from services.stripe_sync.client import StripeCallError
from services.stripe_sync.concurrency import all_of
from services.stripe_sync.crew import Crew
from services.stripe_sync.identities import Identities, Identity
from services.stripe_sync.lookups import Listed, list_together
from services.stripe_sync.outcomes import Outcome
from services.stripe_sync.requests import (
    NEVER_REACHED,
    DeclinedError,
    Errand,
    RefusedError,
    find_refund,
    is_over,
)
from services.stripe_sync.store_requests import OUTCOME_UNKNOWN

log = structlog.get_logger()

ACCOUNTS_AT_ONCE_MAX = 16
BATCH_REQUESTS = 32
AT_ONCE_MAX = 4
TAKEN_FOR = timedelta(seconds=300)
"""Longer than a batch takes; a worker that died gives its requests back after it."""
UNCALLABLE_PAUSE = timedelta(seconds=60)
LOST_PAUSE = timedelta(hours=1)
"""Between two looks for a refund that nobody could tell of."""

Account = tuple[str, Mode]


class RequestWorker:
    """Settles open requests, each account's in a task of its own."""

    def __init__(self, database: Database, directory: Directory, identities: Identities) -> None:
        self.database = database
        self.directory = directory
        self.identities = identities
        self.crew: Crew[Account] = Crew("settle requests", self.settle, most=ACCOUNTS_AT_ONCE_MAX)

    async def run_once(self) -> None:
        """Take up every account that has something due, as far as there is room."""
        self.crew.take_up(await self.due())

    async def due(self) -> list[Account]:
        """The accounts in which a request waits for somebody to look."""
        now = utc_now()
        async with self.database.maintenance() as tx:
            oldest = await store_requests.oldest_open(tx)
            PAYMENT_REQUESTS_OLDEST_AGE_SECONDS.set(
                (now - oldest).total_seconds() if oldest is not None else 0
            )
            return await store_requests.due_accounts(
                tx, now, [account for account, _ in self.crew.busy], ACCOUNTS_AT_ONCE_MAX
            )

    async def settle(self, each: Account) -> int:
        """Settle what is due in one account; how many requests were looked at."""
        account, mode = each
        now = utc_now()
        async with self.database.maintenance() as tx:
            rows = await store_requests.take_due(
                tx, account, mode, now, now + TAKEN_FOR, BATCH_REQUESTS
            )
        listed = await self._list(account, mode, rows)
        slots = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(row: Row) -> None:
            async with slots:
                await self._settle_apart(row, listed)

        await all_of(map(one, rows))
        return len(rows)

    async def _list(self, account: str, mode: Mode, rows: Sequence[Row]) -> Listed:
        """What Stripe has of these, as far as one list tells of several."""
        identity = await self.identities.of(account, mode)
        if identity is None:
            return {}
        return await list_together(identity.api, [r for r in rows if speaks_for(identity, r)])

    async def _settle_apart(self, row: Row, listed: Listed) -> None:
        """One request, where an odd one must not hold up the others."""
        try:
            await self._settle(row, listed)
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - it is looked at again in its time
            detail = f"{type(error).__name__}: {error}"
            log.error("payment_request_odd", request=str(row["request_id"]), error=detail)  # noqa: TRY400

    async def _settle(self, row: Row, listed: Listed) -> None:
        """One request; what cannot be told now is looked at later, later each time."""
        identity = await self.identities.of(row["account"], row["mode"])
        tenant = await self.directory.by_id(row["tenant_id"])
        callable_ = identity is not None and speaks_for(identity, row)
        if row["state"] == "refused":
            await self._look_again(row, identity if callable_ else None, tenant)
            return
        if identity is None or tenant is None or not callable_:
            if tenant is not None and is_over(row):
                code = OUTCOME_UNKNOWN if row["sent"] else NEVER_REACHED
                at = business_now(tenant, row["mode"])
                await Outcome(self.database, row, at).refused(code, 409)
                log.error("payment_request_given_up", request=str(row["request_id"]), code=code)
                return
            async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
                until = utc_now() + UNCALLABLE_PAUSE
                await store_requests.postpone(
                    tx, row["request_id"], until, "nobody speaks for the account now"
                )
            return
        errand = Errand(self.database, identity.api, row, business_now(tenant, row["mode"]), listed)
        try:
            await errand.run(looks_first=True)
        except (DeclinedError, RefusedError, StripeCallError):
            return
        log.info("payment_outcome_found", request=str(row["request_id"]), kind=row["kind"])

    async def _look_again(self, row: Row, identity: Identity | None, tenant: Tenant | None) -> None:
        """A lost refund: whether Stripe has it or not, once Stripe can be asked."""
        async with self.database.tenant(row["tenant_id"], row["mode"]) as tx:
            await store_requests.postpone(
                tx, row["request_id"], utc_now() + LOST_PAUSE, "looked for again"
            )
            refund = await store_requests.find_lost(tx, row["request_id"])
        if identity is None or tenant is None or refund is None:
            return
        intent, charge = refund["stripe_payment_intent_id"], refund["stripe_charge_id"]
        query = {"payment_intent": intent} if intent else {"charge": charge}
        try:
            found = await find_refund(identity.api, query, row["request_id"])
        except StripeCallError as error:
            log.info("lost_refund_unseen", request=str(row["request_id"]), error=str(error))
            return
        outcome = Outcome(self.database, row, business_now(tenant, row["mode"]))
        await outcome.proved(found, NEVER_REACHED)
        log.warning(
            "lost_refund_proved", request=str(row["request_id"]), is_at_stripe=found is not None
        )


def speaks_for(identity: Identity, row: Row) -> bool:
    """Whether this access is that of the tenant whose request it is."""
    return identity.is_platform or identity.tenant_id == row["tenant_id"]
