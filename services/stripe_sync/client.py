"""Calling Stripe: one identity per account and mode, on one shared HTTP pool.

Everything goes through `StripeApi.get` and `post`, which answer with Stripe's own JSON. The SDK
retries connections, 409 and 5xx under the same idempotency key; 429 it does not, so that is here.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import stripe
import structlog
from opentelemetry.trace import SpanKind

from libs.contracts.envelope import Mode
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.observability.metrics import STRIPE_REQUEST_SECONDS, STRIPE_REQUESTS_TOTAL
from libs.observability.tracing import start_span

log = structlog.get_logger()

Json = dict[str, Any]

stripe.enable_telemetry = False

NETWORK_RETRIES = 2
CALLS_AT_ONCE_MAX = 8
RATE_LIMITED_TRIES = 4
PAUSE_SECONDS_MAX = 30.0
PAGE_SIZE = 100


class StripeCallError(Exception):
    """A call did not succeed; `code` is Stripe's word where it gave one."""

    def __init__(self, code: str, message: str, *, status: int | None = None) -> None:
        self.code = code
        self.message = message[:500]
        self.status = status
        super().__init__(f"{code}: {self.message}")


class StripeTransientError(StripeCallError):
    """The network, Stripe's servers or its rate limit: the same call may succeed later."""


class StripeAccessError(StripeCallError):
    """The key is invalid or may not do this: nothing of this account works until that is mended."""


class StripeRefusedError(StripeCallError):
    """Stripe understood and said no; the same call will never succeed."""


class StripeMissingError(StripeRefusedError):
    """There is no such object."""


class StripeApi:
    """One Stripe account in one mode, as one identity."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE_MAX)
        self._resume_at = 0.0
        self._pause_seconds = 0.5

    async def get(self, operation: str, path: str, params: Mapping[str, Any] | None = None) -> Json:
        """Read.

        Args:
            operation: a stable word for metrics, e.g. `invoice.retrieve`.

        Raises:
            StripeCallError: see its kinds.
        """
        return await self._call(operation, "get", path, params or {}, {})

    async def post(
        self, operation: str, path: str, params: Mapping[str, Any], *, idempotency_key: str
    ) -> Json:
        """Write, at most once per idempotency key (which Stripe keeps for at least 24 hours).

        Raises:
            StripeCallError: see its kinds.
        """
        options = {"idempotency_key": idempotency_key}
        return await self._call(operation, "post", path, params, options)

    async def list_all(
        self,
        operation: str,
        path: str,
        params: Mapping[str, Any],
        *,
        pages_max: int,
        after: str | None = None,
    ) -> list[Json]:
        """Every object of a list, page by page.

        Raises:
            StripeCallError: see its kinds; also when the list is longer than `pages_max` pages.
        """
        found: list[Json] = []
        for _ in range(pages_max):
            query = {**params, "limit": PAGE_SIZE} | ({"starting_after": after} if after else {})
            page = await self.get(operation, path, query)
            found.extend(page["data"])
            if not page["has_more"] or not page["data"]:
                return found
            after = page["data"][-1]["id"]
        raise StripeTransientError("list_too_long", f"{operation}: over {pages_max} pages")

    async def _call(
        self,
        operation: str,
        method: str,
        path: str,
        params: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Json:
        for _ in range(RATE_LIMITED_TRIES):
            await self._wait_out_the_limit()
            started = time.perf_counter()
            try:
                async with self._slots:
                    with start_span(f"stripe {operation}", kind=SpanKind.CLIENT, method=method):
                        response: Any = await self._client.raw_request_async(
                            method, path, **params, **options
                        )
            except stripe.StripeError as error:
                outcome = _classify(error)
                STRIPE_REQUESTS_TOTAL.labels(operation=operation, outcome=outcome.code_class).inc()
                if not outcome.rate_limited:
                    log.info("stripe_call_failed", operation=operation, error=str(outcome.error))
                    raise outcome.error from None
                self._slow_down(error, operation)
                continue
            finally:
                STRIPE_REQUEST_SECONDS.labels(operation=operation).observe(
                    time.perf_counter() - started
                )
            self._pause_seconds = 0.5
            STRIPE_REQUESTS_TOTAL.labels(operation=operation, outcome="ok").inc()
            answer: Json = _plain(response.data)
            return answer
        raise StripeTransientError("rate_limited", "Stripe's rate limit held on", status=429)

    async def _wait_out_the_limit(self) -> None:
        wait = self._resume_at - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)

    def _slow_down(self, error: stripe.StripeError, operation: str) -> None:
        """After a 429 nobody calls this account for a while, longer each time it happens again."""
        headers: Mapping[str, str] = error.headers or {}
        asked = headers.get("Retry-After") or headers.get("retry-after") or ""
        pause = float(asked) if asked.isdigit() else self._pause_seconds
        pause = min(pause, PAUSE_SECONDS_MAX) * random.uniform(1.0, 1.5)  # noqa: S311 - jitter
        self._resume_at = max(self._resume_at, time.monotonic() + pause)
        self._pause_seconds = min(self._pause_seconds * 2, PAUSE_SECONDS_MAX)
        log.warning("stripe_rate_limited", operation=operation, pause_seconds=round(pause, 2))


@dataclass(frozen=True)
class _Outcome:
    error: StripeCallError
    code_class: str
    rate_limited: bool = False


def _classify(error: stripe.StripeError) -> _Outcome:
    """Which of our kinds an error of the SDK is."""
    status, code = error.http_status, error.code or type(error).__name__
    message = error.user_message or str(error)
    if status == 429:
        return _Outcome(StripeTransientError(code, message, status=429), "rate_limited", True)
    if status is None or status >= 500 or status == 409:
        return _Outcome(StripeTransientError(code, message, status=status), "failed")
    if status in (401, 403):
        return _Outcome(StripeAccessError(code, message, status=status), "denied")
    if status == 404:
        return _Outcome(StripeMissingError(code, message, status=status), "missing")
    return _Outcome(StripeRefusedError(code, message, status=status), "refused")


def _plain(value: Any) -> Any:
    """Plain containers, without NUL characters, which Postgres cannot keep."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, str) and "\x00" in value:
        return value.replace("\x00", "")
    return value


class Identities:
    """The accounts this process can speak for."""

    def __init__(self, apis: Mapping[tuple[str, Mode], StripeApi]) -> None:
        self._apis = dict(apis)

    def of(self, account: str, mode: Mode) -> StripeApi | None:
        """The identity of an account in a mode; None where there is none configured."""
        return self._apis.get((account, mode))

    def all(self) -> list[tuple[str, Mode, StripeApi]]:
        """Every (account, mode, identity)."""
        return [(account, mode, api) for (account, mode), api in self._apis.items()]


@asynccontextmanager
async def open_identities(
    key: str | None, mode: Mode, *, base: str | None, api_version: str, timeout_seconds: float
) -> Any:
    """The identities of this process, on one HTTP pool that is closed at the end.

    Args:
        key: the platform's secret key; None: no identity at all.
        base: replaces all four hosts of Stripe, so that no call escapes; None for the real ones.
    """
    pool = stripe.HTTPXClient(timeout=timeout_seconds, allow_sync_methods=False)
    addresses: Any = (
        dict.fromkeys(("api", "connect", "files", "meter_events"), base) if base else {}
    )
    apis: dict[tuple[str, Mode], StripeApi] = {}
    if key is not None:
        client = stripe.StripeClient(
            key,
            http_client=pool,
            stripe_version=api_version,
            max_network_retries=NETWORK_RETRIES,
            base_addresses=addresses,
        )
        apis[PLATFORM_ACCOUNT, mode] = StripeApi(client)
    try:
        yield Identities(apis)
    finally:
        await pool.close_async()  # type: ignore[no-untyped-call]
