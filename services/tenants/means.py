"""What it takes to work with a tenant's own Stripe account."""

from dataclasses import dataclass

from libs.db.pool import Database, Row
from services.tenants import secrets
from services.tenants.sealing import Sealer
from services.tenants.settings import Settings
from services.tenants.stripe_api import Identity, StripeApi


@dataclass(frozen=True)
class Means:
    """The database, the keys that seal, and Stripe. One per process."""

    database: Database
    sealer: Sealer
    stripe: StripeApi
    settings: Settings

    async def identity_of(self, connection: Row, secret: Row | None) -> Identity:
        """As whom a connection's account is called; outside of any transaction.

        Args:
            secret: the current key, as it is kept, where the connection is by raw keys.

        Raises:
            NotConfiguredError: the platform has no key of this mode.
            SealedValueError, MasterKeyUnavailableError, SecretStoreUnavailableError.
        """
        if connection["kind"] != "RAW_KEYS":
            return self.stripe.platform(connection["mode"], connection["account_id"])
        assert secret is not None, "a connection by raw keys has one"
        return Identity(await secrets.read(self.sealer, connection["tenant_id"], secret))
