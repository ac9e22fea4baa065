"""Who this process may speak for at Stripe: the platform, and every tenant with a connection.

A tenant's account is called with the platform's key and `Stripe-Account` (Connect), or with the
tenant's own key. Which of the two, and with which version of the key, is looked up for every call
in the local copies of directory and secrets, so that a rotation or a disconnect holds within two
seconds. Clients are cheap: they share one HTTP pool.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import stripe
import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.contracts.stripe_accounts import StripeCredentialRefused
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID, ConnectionRecord
from libs.crypto.errors import (
    MasterKeyUnavailableError,
    SealedValueError,
    SecretStoreUnavailableError,
)
from libs.db.pool import Database
from libs.directory.local import Directory, Tenant
from libs.directory.secrets import OpenSecret, Secrets
from libs.messaging.key_use import KEY_USES
from libs.messaging.outbox import emit
from services.stripe_sync import store_connections
from services.stripe_sync.client import (
    ACCOUNT_INVALID,
    Login,
    StripeApi,
    StripeStoppedError,
    StripeTransientError,
)
from services.stripe_sync.settings import Settings

log = structlog.get_logger()

stripe.enable_telemetry = False

NETWORK_RETRIES = 2
CLIENT_SECONDS = 300.0
ACCOUNTS_MAX = 1_000
RENEWAL_SECONDS = 2.0
"""How long a refused call waits for a key that is on its way here."""
POLL_SECONDS = 0.1
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 15.0, 60.0
"""How long a refused login is left alone before it is tried again."""
REFUSALS_MAX = 20
CALLABLE_STATUSES = frozenset({"PENDING", "CONNECTED"})


@dataclass(frozen=True)
class Identity:
    """An account in a mode, whose it is, and the way to call it."""

    account: str
    mode: Mode
    tenant_id: UUID
    api: StripeApi

    @property
    def is_platform(self) -> bool:
        """Whether it is the platform's own account."""
        return self.account == PLATFORM_ACCOUNT


@dataclass(frozen=True)
class Wire:
    """How clients are made: all of them on one HTTP pool."""

    pool: stripe.HTTPXClient
    base: str | None
    api_version: str

    def client(self, key: str) -> stripe.StripeClient:
        """A client for one key; `base` replaces all four hosts of Stripe, so that no call escapes."""
        hosts = ("api", "connect", "files", "meter_events")
        addresses: Any = dict.fromkeys(hosts, self.base) if self.base else {}
        return stripe.StripeClient(
            key,
            http_client=self.pool,
            stripe_version=self.api_version,
            max_network_retries=NETWORK_RETRIES,
            base_addresses=addresses,
        )


class FixedLogin:
    """The platform's own key."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._login = Login(client)

    async def current(self) -> Login:
        """Always the same."""
        return self._login

    async def refused(self, login: Login, error: StripeStoppedError) -> None:
        """There is no other one."""
        del login
        log.error("platform_key_refused", code=error.code)

    def used(self, login: Login) -> None:
        """Nobody asks when."""


@dataclass(frozen=True)
class KeyVersion:
    """A version of the raw key of a connection."""

    tenant_id: UUID
    connection_id: UUID
    version: int


@dataclass(frozen=True)
class Access:
    """The platform's access to a connected account, as one version of the tenant's record has it."""

    tenant_id: UUID
    connection_id: UUID
    directory_version: int


@dataclass
class _Refusal:
    """A login that Stripe refused, and until when it is not tried again."""

    pause_seconds: float
    until: float


class TenantLogin:
    """A tenant's account, by whatever its connection is now."""

    def __init__(self, shared: "Shared", account: str, mode: Mode) -> None:
        self._shared = shared
        self._account = account
        self._mode = mode
        self._refusals: dict[KeyVersion | Access, _Refusal] = {}
        self._client: tuple[OpenSecret, stripe.StripeClient, float] | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def current(self) -> Login:
        """See `Logins.current`."""
        tenant, connection = await self._connection()
        if connection.kind != "RAW_KEYS":
            access = Access(tenant.id, connection.connection_id, tenant.snapshot.version)
            if self._is_paused(access):
                raise StripeStoppedError("access_refused", "Stripe refuses access to the account")
            return self._acting(access)
        usable = await self._usable_keys()
        if not usable:
            raise StripeStoppedError("no_credential", "the account has no key that Stripe accepts")
        return self._speaking(*usable[0])

    async def refused(self, login: Login, error: StripeStoppedError) -> Login | None:
        """Another key of the tenant's, read afresh; the refused one is left alone from now on.

        A key is often replaced and revoked within seconds, so one that is on its way gets two.
        """
        name = login.name
        if not isinstance(name, KeyVersion):
            if isinstance(name, Access) and error.code == ACCOUNT_INVALID:
                self._pause(name)
                await self._tell(name, error)
            else:
                log.error("platform_key_refused", code=error.code)
            return None
        if not self._is_paused(name):
            self._pause(name)
            self._renewal = asyncio.create_task(self._renew(name, error))
        usable = await self._usable_keys()
        return self._speaking(*usable[0]) if usable else None

    def used(self, login: Login) -> None:
        """See `Logins.used`."""
        name = login.name
        if isinstance(name, KeyVersion):
            KEY_USES.note(
                name.tenant_id,
                self._mode,
                "stripe_secret_key",
                name.connection_id,
                version=name.version,
            )
        if isinstance(name, KeyVersion | Access):
            self._refusals.pop(name, None)

    async def _usable_keys(self) -> list[tuple[KeyVersion, OpenSecret]]:
        """The keys that Stripe did not refuse; where there is none, one on its way is waited for."""
        while True:
            tenant, connection = await self._connection()
            found = await self._keys(tenant, connection)
            usable = [(name, key) for name, key in found if not self._is_paused(name)]
            if usable or self._renewal is None or self._renewal.done():
                return usable
            await asyncio.shield(self._renewal)

    async def _renew(self, refused: KeyVersion, error: StripeStoppedError) -> None:
        """Read the keys afresh until there is another one, for two seconds; then tell of it."""
        deadline = time.monotonic() + RENEWAL_SECONDS
        while True:
            tenant, connection = await self._connection()
            found = await self._keys(tenant, connection, afresh=True)
            if any(not self._is_paused(name) for name, _ in found):
                break
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        if all(name.version <= refused.version for name, _ in found):
            await self._tell(refused, error)

    def forget_idle(self) -> None:
        """Keep no key in memory that nobody used of late."""
        if self._client is not None and time.monotonic() - self._client[2] >= CLIENT_SECONDS:
            self._client = None

    async def _connection(self) -> tuple[Tenant, ConnectionRecord]:
        """The tenant and its connection, where it may be called."""
        tenant = await self._shared.directory.find("account", f"{self._mode}:{self._account}")
        connection = tenant.connection(self._mode) if tenant else None
        if tenant is None or connection is None or connection.account_id != self._account:
            raise StripeStoppedError("not_connected", "no tenant has connected the account")
        if connection.status not in CALLABLE_STATUSES or not connection.is_active:
            raise StripeStoppedError("not_connected", "the connection is off or has ended")
        return tenant, connection

    async def _keys(
        self, tenant: Tenant, connection: ConnectionRecord, *, afresh: bool = False
    ) -> list[tuple[KeyVersion, OpenSecret]]:
        """The raw keys of the connection, the current one first."""
        try:
            found = await self._shared.secrets.find(
                tenant.id, self._mode, "stripe_secret_key", afresh=afresh
            )
        except (MasterKeyUnavailableError, SecretStoreUnavailableError) as error:
            raise StripeTransientError("key_unreachable", type(error).__name__) from None
        except SealedValueError as error:
            raise StripeStoppedError("key_unreadable", type(error).__name__) from None
        return [
            (KeyVersion(tenant.id, connection.connection_id, key.version), key)
            for key in found
            if key.connection_id == connection.connection_id
        ]

    def _acting(self, access: Access) -> Login:
        client = self._shared.platform(self._mode)
        if client is None:
            raise StripeStoppedError("no_platform_key", f"no platform key of mode {self._mode}")
        return Login(client, self._account, access)

    def _speaking(self, name: KeyVersion, key: OpenSecret) -> Login:
        now = time.monotonic()
        kept = self._client
        if kept is None or kept[0] != key or now - kept[2] >= CLIENT_SECONDS:
            kept = self._client = (key, self._shared.wire.client(key.value.decode()), now)
        return Login(kept[1], None, name)

    def _is_paused(self, name: KeyVersion | Access) -> bool:
        refusal = self._refusals.get(name)
        return refusal is not None and time.monotonic() < refusal.until

    def _pause(self, name: KeyVersion | Access) -> None:
        before = self._refusals.get(name)
        if before is not None and time.monotonic() < before.until:
            return
        pause = min(before.pause_seconds * 2, PAUSE_SECONDS_MAX) if before else PAUSE_SECONDS_MIN
        if len(self._refusals) >= REFUSALS_MAX:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[name] = _Refusal(pause, time.monotonic() + pause)

    async def _tell(self, name: KeyVersion | Access, error: StripeStoppedError) -> None:
        """Say once that Stripe refuses a version of a key, or our access to the account."""
        now = utc_now()
        version = name.version if isinstance(name, KeyVersion) else 0
        mark = name.version if isinstance(name, KeyVersion) else -name.directory_version
        async with self._shared.database.tenant(name.tenant_id, self._mode) as tx:
            first = await store_connections.note_refused(
                tx, name.connection_id, mark, error.code, now
            )
            if first:
                fact = StripeCredentialRefused(
                    account=self._account,
                    connection_id=name.connection_id,
                    credential_version=version,
                    code=error.code,
                    refused_at=now,
                )
                emit(tx, fact, effective_at=now)
        if first:
            log.error(
                "stripe_credential_refused",
                account=self._account,
                tenant_id=str(name.tenant_id),
                mode=self._mode,
                version=version,
            )


@dataclass(frozen=True)
class Shared:
    """What all identities of the process are made of."""

    database: Database
    directory: Directory
    secrets: Secrets
    wire: Wire
    platform_clients: Mapping[Mode, stripe.StripeClient]
    calls_per_second: Mapping[Mode, float] = field(
        default_factory=lambda: {"test": 0.0, "live": 0.0}
    )

    def platform(self, mode: Mode) -> stripe.StripeClient | None:
        """The client with the platform's key of a mode; None where there is none."""
        return self.platform_clients.get(mode)


class Identities:
    """The accounts this process can speak for."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._platform = {
            mode: StripeApi(FixedLogin(client), calls_per_second=shared.calls_per_second[mode])
            for mode, client in shared.platform_clients.items()
        }
        self._accounts: OrderedDict[tuple[str, Mode], tuple[TenantLogin, StripeApi]] = OrderedDict()

    def platform(self, mode: Mode) -> StripeApi | None:
        """The platform's own account; None where no key of this mode is configured."""
        return self._platform.get(mode)

    def platforms(self) -> list[Mode]:
        """The modes in which the platform's own account can be called."""
        return list(self._platform)

    async def of(self, account: str, mode: Mode) -> Identity | None:
        """Who speaks for an account; None where nobody has connected it."""
        if account == PLATFORM_ACCOUNT:
            api = self.platform(mode)
            return None if api is None else Identity(account, mode, PLATFORM_TENANT_ID, api)
        tenant = await self.shared.directory.find("account", f"{mode}:{account}")
        if tenant is None:
            return None
        return Identity(account, mode, tenant.id, self._api(account, mode))

    async def forget_idle(self) -> None:
        """Drop keys from memory that were not used for five minutes."""
        for login, _ in self._accounts.values():
            login.forget_idle()

    def _api(self, account: str, mode: Mode) -> StripeApi:
        """The account's own limits and failures stay with it, whoever's key it is called with."""
        found = self._accounts.pop((account, mode), None)
        if found is None:
            login = TenantLogin(self.shared, account, mode)
            found = (login, StripeApi(login, calls_per_second=self.shared.calls_per_second[mode]))
            while len(self._accounts) >= ACCOUNTS_MAX:
                self._accounts.popitem(last=False)
        self._accounts[account, mode] = found
        return found[1]


@asynccontextmanager
async def open_identities(
    settings: Settings, database: Database, directory: Directory, secrets: Secrets
) -> AsyncGenerator[Identities, None]:
    """The identities of this process, on one HTTP pool that is closed at the end."""
    pool = stripe.HTTPXClient(timeout=settings.request_timeout_seconds, allow_sync_methods=False)
    wire = Wire(pool, settings.stripe_base, settings.stripe_api_version)
    key = settings.stripe_key
    clients = {} if key is None else {settings.stripe_mode: wire.client(key)}
    try:
        rates = settings.calls_per_second
        yield Identities(Shared(database, directory, secrets, wire, clients, rates))
    finally:
        await pool.close_async()  # type: ignore[no-untyped-call]
