"""The calls to Stripe that tenants makes itself: proving keys, Connect, a tenant's webhook endpoint.

Everything else is stripe_sync's. None of these calls is made inside a database transaction, and no
key stands in an error or a log.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode

import stripe
import structlog
from opentelemetry.trace import SpanKind

from libs.contracts.envelope import Mode
from libs.observability.metrics import STRIPE_REQUESTS_TOTAL
from libs.observability.tracing import start_span
from services.tenants.settings import Settings

log = structlog.get_logger()

Json = dict[str, Any]

stripe.enable_telemetry = False

NETWORK_RETRIES = 2
CONNECT_BASE = "https://connect.stripe.com"
ENDPOINT_PAGE = 100

# Our words where Stripe gives none.
_CODES = {401: "invalid_api_key", 403: "permission_denied", 429: "rate_limited"}

WEBHOOK_EVENTS = ("*",)
"""Everything: stripe_sync looks at what it mirrors and passes over the rest."""


class StripeError(Exception):
    """A call did not succeed; `code` is Stripe's word where it gave one."""

    def __init__(self, code: str, status: int | None = None) -> None:
        self.code = code
        self.status = status
        super().__init__(code)


class StripeAwayError(StripeError):
    """The network, Stripe's servers or its rate limit: the same call may succeed later."""


class StripeKeyError(StripeError):
    """401: the key is unknown, expired or revoked."""


class StripeDeniedError(StripeError):
    """403: the key is known but may not do this, or the account is not connected."""


class StripeRefusedError(StripeError):
    """Stripe understood and said no; the same call will never succeed."""


class NotConfiguredError(Exception):
    """The platform has no Stripe key, or no Connect client id."""


@dataclass(frozen=True)
class Identity:
    """As whom a call is made: a tenant's own key, or the platform for a connected account."""

    key: str = field(repr=False)
    account: str | None = None


@dataclass(frozen=True)
class Health:
    """What Stripe says of an account."""

    account_id: str
    charges_enabled: bool
    payouts_enabled: bool
    details_submitted: bool
    requirements_due: tuple[str, ...]
    disabled_reason: str | None


@dataclass(frozen=True)
class Endpoint:
    """A webhook endpoint that was just registered."""

    endpoint_id: str
    secret: str = field(repr=False)


class StripeApi:
    """Calls on one HTTP pool; one cheap client per key."""

    def __init__(self, settings: Settings, pool: stripe.HTTPXClient) -> None:
        self._settings = settings
        self._pool = pool
        base = str(settings.stripe_api_base).rstrip("/") if settings.stripe_api_base else None
        self._addresses: Any = (
            dict.fromkeys(("api", "connect", "files", "meter_events"), base) if base else {}
        )
        self._connect_url = str(settings.stripe_connect_base or base or CONNECT_BASE).rstrip("/")
        self._platform_account: str | None = None

    @property
    def platform_mode(self) -> Mode | None:
        """The mode of the platform's key; None where there is none."""
        key = self._settings.platform_stripe_key
        if key is None:
            return None
        return "live" if key.startswith(("sk_live_", "rk_live_")) else "test"

    def platform(self, mode: Mode, account: str | None = None) -> Identity:
        """The platform, speaking for itself or for a connected account.

        Raises:
            NotConfiguredError: it has no key of this mode.
        """
        key = self._settings.platform_stripe_key
        if key is None or self.platform_mode != mode:
            raise NotConfiguredError
        return Identity(key, account)

    async def own_account(self, identity: Identity) -> Health:
        """The account that a key speaks for.

        Raises:
            StripeError: see its kinds.
        """
        return _health(await self._call("account.retrieve", identity, "get", "/v1/account"))

    async def platform_account(self) -> str | None:
        """The platform's own account id, asked for once; None where Stripe does not tell it."""
        mode = self.platform_mode
        if self._platform_account is None and mode is not None:
            try:
                found = await self.own_account(self.platform(mode))
            except StripeError:
                return None
            self._platform_account = found.account_id
        return self._platform_account

    async def connected_account(self, mode: Mode, account_id: str) -> Health:
        """An account connected to the platform.

        Raises:
            StripeError, NotConfiguredError: see their kinds.
        """
        path = f"/v1/accounts/{account_id}"
        return _health(await self._call("account.retrieve", self.platform(mode), "get", path))

    def authorize_url(self, state: str, redirect_uri: str, email: str | None) -> str:
        """Where the owner of a Standard account lets the platform act for it.

        Raises:
            NotConfiguredError: there is no client id.
        """
        query = {
            "response_type": "code",
            "client_id": self._client_id(),
            # Read-only, the default, is for extensions; platforms need this.
            "scope": "read_write",
            "redirect_uri": redirect_uri,
            "state": state,
        }
        if email is not None:
            query["stripe_user[email]"] = email
        return f"{self._connect_url}/oauth/authorize?{urlencode(query)}"

    async def exchange_code(self, mode: Mode, code: str) -> tuple[str, bool]:
        """Turn a code into access: the account's id and whether it is live. Tokens are dropped.

        Raises:
            StripeError, NotConfiguredError: see their kinds.
        """
        answer = await self._call(
            "oauth.token",
            self.platform(mode),
            "post",
            "/oauth/token",
            {"grant_type": "authorization_code", "code": code},
            base="connect",
        )
        return str(answer["stripe_user_id"]), bool(answer["livemode"])

    async def deauthorize(self, mode: Mode, account_id: str) -> None:
        """Give up the access to a connected account.

        Raises:
            StripeError, NotConfiguredError: see their kinds. `StripeKeyError` where it is not, or
                no longer, connected.
        """
        await self._call(
            "oauth.deauthorize",
            self.platform(mode),
            "post",
            "/oauth/deauthorize",
            {"client_id": self._client_id(), "stripe_user_id": account_id},
            base="connect",
        )

    async def create_account(
        self,
        mode: Mode,
        account_type: Literal["standard", "express"],
        *,
        email: str | None,
        tenant_id: str,
        idempotency_key: str,
    ) -> Health:
        """A new account, connected to the platform, still to be onboarded.

        Raises:
            StripeError, NotConfiguredError: see their kinds.
        """
        params: Json = {"type": account_type, "metadata": {"tenant_id": tenant_id}}
        if email is not None:
            params["email"] = email
        answer = await self._call(
            "account.create",
            self.platform(mode),
            "post",
            "/v1/accounts",
            params,
            idempotency_key=idempotency_key,
        )
        return _health(answer)

    async def create_account_link(
        self, mode: Mode, account_id: str, *, refresh_url: str, return_url: str
    ) -> str:
        """The address at which an account is onboarded; good once, for some minutes.

        Raises:
            StripeError, NotConfiguredError: see their kinds.
        """
        params = {
            "account": account_id,
            "refresh_url": refresh_url,
            "return_url": return_url,
            "type": "account_onboarding",
        }
        answer = await self._call(
            "account_link.create", self.platform(mode), "post", "/v1/account_links", params
        )
        return str(answer["url"])

    async def register_webhook(
        self, identity: Identity, url: str, metadata: Mapping[str, str]
    ) -> Endpoint:
        """Register our URL in the tenant's own account; the secret is in this answer only.

        Raises:
            StripeError: see its kinds.
        """
        answer = await self._call(
            "webhook_endpoint.create",
            identity,
            "post",
            "/v1/webhook_endpoints",
            {
                "url": url,
                "enabled_events": list(WEBHOOK_EVENTS),
                "api_version": self._settings.stripe_api_version,
                "description": "Sluice",
                "metadata": dict(metadata),
            },
        )
        return Endpoint(str(answer["id"]), str(answer["secret"]))

    async def remove_webhooks(
        self, identity: Identity, metadata: Mapping[str, str], *, keep: str | None = None
    ) -> None:
        """Delete the endpoints that carry these metadata, but the one to keep.

        Raises:
            StripeError: see its kinds.
        """
        page = await self._call(
            "webhook_endpoint.list",
            identity,
            "get",
            "/v1/webhook_endpoints",
            {"limit": ENDPOINT_PAGE},
        )
        for endpoint in page["data"]:
            ours = metadata.items() <= dict(endpoint.get("metadata") or {}).items()
            if ours and endpoint["id"] != keep:
                path = f"/v1/webhook_endpoints/{endpoint['id']}"
                await self._call("webhook_endpoint.delete", identity, "delete", path)

    def _client_id(self) -> str:
        if self._settings.stripe_client_id is None:
            raise NotConfiguredError
        return self._settings.stripe_client_id

    async def _call(
        self,
        operation: str,
        identity: Identity,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Json:
        client = stripe.StripeClient(
            identity.key,
            http_client=self._pool,
            stripe_version=self._settings.stripe_api_version,
            max_network_retries=NETWORK_RETRIES,
            base_addresses=self._addresses,
        )
        if identity.account is not None:
            options["stripe_account"] = identity.account
        outcome = "ok"
        try:
            with start_span(f"stripe {operation}", kind=SpanKind.CLIENT, method=method):
                response: Any = await client.raw_request_async(
                    method, path, **(params or {}), **options
                )
        except stripe.StripeError as error:
            refusal = _classify(error)
            outcome = type(refusal).__name__
            log.info("stripe_call_failed", operation=operation, code=refusal.code)
            raise refusal from None
        finally:
            STRIPE_REQUESTS_TOTAL.labels(operation=operation, outcome=outcome).inc()
        answer: Json = response.data
        return answer


def _classify(error: stripe.StripeError) -> StripeError:
    """Which of our kinds an error of the SDK is. Its message may quote a key: only codes are kept."""
    status = error.http_status
    code = error.code or _code_in(error.json_body) or _CODES.get(status or 0, "stripe_error")
    if status is None or status >= 500 or status in (409, 429):
        return StripeAwayError(code, status)
    if status == 401:
        return StripeKeyError(code, status)
    if status == 403:
        return StripeDeniedError(code, status)
    return StripeRefusedError(code, status)


def _code_in(body: Any) -> str | None:
    """Stripe's code, which the SDK leaves out of some of its errors."""
    part = body.get("error") if isinstance(body, dict) else None
    code = part.get("code") if isinstance(part, dict) else None
    return code if isinstance(code, str) else None


def _health(account: Json) -> Health:
    requirements: Json = account.get("requirements") or {}
    due = [*(requirements.get("past_due") or ()), *(requirements.get("currently_due") or ())]
    return Health(
        account_id=str(account["id"]),
        charges_enabled=bool(account.get("charges_enabled")),
        payouts_enabled=bool(account.get("payouts_enabled")),
        details_submitted=bool(account.get("details_submitted")),
        requirements_due=tuple(dict.fromkeys(str(name) for name in due)),
        disabled_reason=requirements.get("disabled_reason"),
    )


@asynccontextmanager
async def open_stripe(settings: Settings) -> AsyncGenerator[StripeApi, None]:
    """The calls on a pool of their own, closed at the end."""
    pool = stripe.HTTPXClient(timeout=settings.stripe_timeout_seconds, allow_sync_methods=False)
    try:
        yield StripeApi(settings, pool)
    finally:
        await pool.close_async()  # type: ignore[no-untyped-call]
