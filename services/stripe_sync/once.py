"""Calls with an effect: at most once, also where Stripe's answer was an error of its own.

Stripe keeps a 500 under the idempotency key and repeats it for a day. Such a key is burnt: it is
remembered as such, and the next try uses another one, after a look whether the first had its effect
after all. A call that got no answer keeps its key, for then Stripe can still tell; so does one that
got a 502, 503 or 504, which come from in front of Stripe's servers and are kept by nobody. After a day
Stripe may have forgotten any key, so whatever is sent again that late is looked for first.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.db.pool import Database
from services.stripe_sync import store_keys
from services.stripe_sync.client import Json, StripeApi, StripeTransientError

STORED_STATUS = 500
"""The one error of its own that Stripe keeps under an idempotency key."""

RESENT_FOR = timedelta(hours=23)
"""Stripe keeps idempotency keys for at least 24 hours."""

Look = Callable[[], Awaitable[Json | None]]
"""Finds the object at Stripe that an earlier try may have created."""


@dataclass(frozen=True)
class Writer:
    """Writes to one Stripe account on behalf of one tenant.

    Attributes:
        network_retries: of one call; None: as often as usual.
    """

    database: Database
    api: StripeApi
    tenant_id: UUID
    mode: Mode
    network_retries: int | None = None

    async def post(
        self,
        operation: str,
        path: str,
        params: Json,
        *,
        key: str,
        look: Look | None = None,
        asked_at: datetime | None = None,
    ) -> Json:
        """Write under a deterministic key.

        Args:
            key: stands for this effect for ever.
            look: where doing it twice would harm.
            asked_at: when it may have been sent first; None where the caller keeps watch over that.

        Raises:
            StripeCallError: see its kinds.
        """
        async with self.database.tenant(self.tenant_id, self.mode) as tx:
            burnt = await store_keys.times_burnt(tx, key)
        if look is not None and (burnt or (asked_at is not None and may_be_forgotten(asked_at))):
            found = await look()
            if found is not None:
                return found
        try:
            return await self.api.post(
                operation,
                path,
                params,
                idempotency_key=f"{key}:{burnt}" if burnt else key,
                network_retries=self.network_retries,
            )
        except StripeTransientError as error:
            if error.status == STORED_STATUS:
                async with self.database.tenant(self.tenant_id, self.mode) as tx:
                    await store_keys.burn(tx, key, burnt)
            raise


def may_be_forgotten(asked_at: datetime) -> bool:
    """Whether Stripe may have forgotten an idempotency key that was used then."""
    return utc_now() - asked_at > RESENT_FOR
