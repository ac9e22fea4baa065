"""Who asks, who pays, and into which Stripe account."""

import asyncio
import base64
import time
from dataclasses import dataclass
from uuid import UUID

import structlog

from libs.contracts.billing import BilledBy, CustomerCreated, NameCustomer
from libs.contracts.envelope import Mode
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID, ConnectionRecord
from libs.crypto.errors import SealedValueError
from libs.crypto.personal import PersonalKeys
from libs.db.pool import Database, Row, Tx
from libs.directory.local import Tenant
from libs.settings import StripeSettings
from libs.web.connections import StripeNotConnected, needs_connection
from services.stripe_sync import store_customers
from services.stripe_sync.client import StripeApi
from services.stripe_sync.identities import Identities

log = structlog.get_logger()

WAIT_SECONDS = 2.0
POLL_SECONDS = 0.05


class PayerUnknownError(Exception):
    """The tenant has no such customer."""


class NoPlatformKeyError(Exception):
    """The platform has no key of this mode."""


@dataclass(frozen=True)
class Asker:
    """Who asks: the tenant, the person or key, and the key under which the same is asked again."""

    tenant: Tenant
    mode: Mode
    actor: str
    client_key: str | None = None


@dataclass(frozen=True)
class Payer:
    """The tenant itself, whom the platform bills, or one of the tenant's own customers.

    Attributes:
        name: None where the customer was erased, or nobody told it.
    """

    customer_id: UUID
    name: str | None
    is_tenant: bool


@dataclass(frozen=True)
class Till:
    """Where money goes: an account, the way to call it, and the tenant's connection to it.

    Attributes:
        connection: None where it is the platform's account.
    """

    account: str
    api: StripeApi
    connection: ConnectionRecord | None = None

    @property
    def collected_by(self) -> BilledBy:
        """Whose account it is."""
        return "platform" if self.account == PLATFORM_ACCOUNT else "tenant"


async def take_customer(tx: Tx, customer: CustomerCreated) -> None:
    """Billing has entered a customer: it can pay."""
    await store_customers.insert(tx, customer.customer_id, customer.billed_by, customer.name)


async def take_name(tx: Tx, named: NameCustomer) -> None:
    """Keep the name that Stripe is to be told of a customer, sealed as it came."""
    personal, wrapped = base64.b64decode(named.personal), base64.b64decode(named.wrapped)
    await store_customers.put_name(tx, named.customer_id, personal, wrapped)


async def find_payer(
    database: Database,
    keys: PersonalKeys,
    tenant: Tenant,
    mode: Mode,
    customer_id: UUID | None,
) -> Payer:
    """Who pays; a customer, or its name, that is on its way here from billing has two seconds.

    Raises:
        PayerUnknownError: the tenant has no such customer.
    """
    itself = tenant.snapshot.self_customer_id
    if customer_id is None or customer_id == itself:
        return Payer(itself, tenant.snapshot.name, is_tenant=True)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        async with database.tenant(tenant.id, mode) as tx:
            found = await store_customers.find(tx, customer_id)
        is_late = time.monotonic() >= deadline
        if found is not None and (is_late or not found["awaits_name"]):
            return Payer(customer_id, _name_of(keys, found), is_tenant=False)
        if is_late:
            raise PayerUnknownError
        await asyncio.sleep(POLL_SECONDS)


def _name_of(keys: PersonalKeys, customer: Row) -> str | None:
    if customer["personal"] is None:
        told: str | None = customer["name"]
        return told
    try:
        fields = keys.open(
            bytes(customer["personal"]), bytes(customer["wrapped"]), customer["customer_id"]
        )
    except SealedValueError as error:
        # People pay, also those whose name was sealed under a pepper that is not here any more.
        log.error(  # noqa: TRY400 - a trace would show the sealed bytes
            "customer_name_unreadable",
            customer=str(customer["customer_id"]),
            reason=type(error).__name__,
        )
        return None
    return fields["name"]


async def open_till(
    identities: Identities, tenant: Tenant, mode: Mode, settings: StripeSettings, *, of_tenant: bool
) -> Till:
    """The account that is paid into.

    Args:
        of_tenant: whether it is the tenant who is paid; else the platform.

    Raises:
        StripeNotConnected: the tenant's own account is needed, and there is none to be used.
        NoPlatformKeyError: the platform's account is meant, and it has no key of this mode.
    """
    own = of_tenant and tenant.id != PLATFORM_TENANT_ID
    connection = needs_connection(tenant, mode, settings) if own else None
    if connection is None:
        api = identities.platform(mode)
        if api is None:
            raise NoPlatformKeyError
        return Till(PLATFORM_ACCOUNT, api)
    account = connection.account_id
    identity = await identities.of(account, mode) if account else None
    if identity is None or identity.tenant_id != tenant.id:
        raise StripeNotConnected
    return Till(identity.account, identity.api, connection)


async def till_of(identities: Identities, tenant: Tenant, mode: Mode, account: str) -> Till:
    """The account in which something of the tenant's stands already.

    Raises:
        StripeNotConnected: it is not the tenant's any more, or cannot be called now.
        NoPlatformKeyError: it is the platform's, and the platform has no key of this mode.
    """
    if account == PLATFORM_ACCOUNT:
        api = identities.platform(mode)
        if api is None:
            raise NoPlatformKeyError
        return Till(PLATFORM_ACCOUNT, api)
    connection = tenant.connection(mode)
    identity = await identities.of(account, mode)
    usable = connection is not None and connection.account_id == account and connection.is_active
    if identity is None or identity.tenant_id != tenant.id or not usable:
        raise StripeNotConnected(
            "The Stripe account in which this payment stands is not connected now. Connect it again "
            "at /settings/stripe in the console."
        )
    return Till(account, identity.api, connection)
