"""Calling Stripe for one account in one mode, with the state of that account's limits and failures.

Everything goes through `StripeApi.get` and `post`, which answer with Stripe's own JSON. The SDK
retries connections, 409 and 5xx under the same idempotency key; 429 it does not, so that is here.
Whose key a call is made with is asked anew for every call: see `identities`.
"""

import asyncio
import json
import random
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import stripe
import structlog
from opentelemetry.trace import SpanKind

from libs.observability.metrics import (
    STRIPE_READS_TOTAL,
    STRIPE_REQUEST_SECONDS,
    STRIPE_REQUESTS_TOTAL,
)
from libs.observability.tracing import start_span
from services.stripe_sync.budget import (
    WAIT_SECONDS_MAX,
    Budget,
    Lane,
    NotInTimeError,
    current_lane,
)

log = structlog.get_logger()

Json = dict[str, Any]

RATE_LIMITED_TRIES = 4
LOGIN_SECONDS = 1.0
"""After a longer wait the login is looked up again: it may have been replaced or ended meanwhile."""
PAUSE_SECONDS_MAX = 30.0
ASKED_PAUSE_SECONDS_MAX = 300.0
"""Where Stripe itself says how long."""
PAGE_SIZE = 100

FAILURES_BEFORE_BREAKING = 8
"""Calls of an account that fail one after the other before it is left alone for a while."""
BREAK_SECONDS_MIN, BREAK_SECONDS_MAX = 1.0, 30.0


ACCOUNT_INVALID = "account_invalid"
"""Stripe's word for a connected account that has withdrawn our access, or never gave it."""


NUL = r"\u0000"
"""As JSON writes it."""


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


class StripeStoppedError(StripeAccessError):
    """Nothing of this account can be called now: no key, a refused key, or it is disconnected."""


class StripeRefusedError(StripeCallError):
    """Stripe understood and said no; the same call will never succeed."""


class StripeMissingError(StripeRefusedError):
    """There is no such object."""


@dataclass(frozen=True)
class Login:
    """What one call is made with.

    Attributes:
        stripe_account: the connected account that the platform's key acts for; None where the key is
            the account's own.
        name: tells this login from every other one of the account.
    """

    client: stripe.StripeClient
    stripe_account: str | None = None
    name: Hashable = None


class Logins(Protocol):
    """Where the login of an account comes from."""

    async def current(self) -> Login:
        """What to call with now.

        Raises:
            StripeStoppedError: nothing may be called.
            StripeTransientError: the key cannot be read right now.
        """
        ...

    async def refused(self, login: Login, error: StripeStoppedError) -> Login | None:
        """Stripe refused the login: another one to try the same call with once, if there is any."""
        ...

    def used(self, login: Login) -> None:
        """Stripe accepted the login."""
        ...


class StripeApi:
    """One Stripe account in one mode, as one identity."""

    def __init__(self, logins: Logins, *, calls_per_second: float = 0.0) -> None:
        self._logins = logins
        self._budget = Budget(calls_per_second)
        self._resume_at = 0.0
        self._pause_seconds = 0.5
        self._breaker = _Breaker()

    async def get(self, operation: str, path: str, params: Mapping[str, Any] | None = None) -> Json:
        """Read.

        Args:
            operation: a stable word for metrics, e.g. `invoice.retrieve`.

        Raises:
            StripeCallError: see its kinds.
        """
        return await self._call(operation, "get", path, params or {}, {})

    async def post(
        self,
        operation: str,
        path: str,
        params: Mapping[str, Any],
        *,
        idempotency_key: str,
        network_retries: int | None = None,
    ) -> Json:
        """Write, at most once per idempotency key (which Stripe keeps for at least 24 hours).

        Args:
            network_retries: 0 where the caller looks what came of it before it tries again.

        Raises:
            StripeCallError: see its kinds.
        """
        options: dict[str, Any] = {"idempotency_key": idempotency_key}
        if network_retries is not None:
            options["max_network_retries"] = network_retries
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
        self._breaker.check()
        login, other = await self._logins.current(), None
        for _ in range(RATE_LIMITED_TRIES):
            asked_at = time.monotonic()
            lane = await self._turn(method)
            try:
                if time.monotonic() - asked_at > LOGIN_SECONDS:
                    login = await self._logins.current()
                response = await self._request(login, operation, method, path, params, options)
            except stripe.StripeError as error:
                outcome = _classify(error)
                STRIPE_REQUESTS_TOTAL.labels(operation=operation, outcome=outcome.code_class).inc()
                if outcome.rate_limited:
                    self._slow_down(error, operation)
                    continue
                self._breaker.note(failed=isinstance(outcome.error, StripeTransientError))
                if isinstance(outcome.error, StripeStoppedError):
                    was, other = other, await self._logins.refused(login, outcome.error)
                    if other is not None and was is None:
                        login = other
                        continue
                log.info("stripe_call_failed", operation=operation, error=str(outcome.error))
                raise outcome.error from None
            finally:
                self._budget.give_back(lane)
            self._pause_seconds = 0.5
            self._breaker.note(failed=False)
            self._logins.used(login)
            STRIPE_REQUESTS_TOTAL.labels(operation=operation, outcome="ok").inc()
            return _answer(response)
        raise StripeTransientError("rate_limited", "Stripe's rate limit held on", status=429)

    async def _request(
        self,
        login: Login,
        operation: str,
        method: str,
        path: str,
        params: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Any:
        """One call; the account is named per request, so that a client stands for one key only."""
        acting = {"stripe_account": login.stripe_account} if login.stripe_account else {}
        started = time.perf_counter()
        try:
            with start_span(f"stripe {operation}", kind=SpanKind.CLIENT, method=method):
                return await login.client.raw_request_async(
                    method, path, **params, **options, **acting
                )
        finally:
            STRIPE_REQUEST_SECONDS.labels(operation=operation).observe(
                time.perf_counter() - started
            )

    async def _turn(self, method: str) -> Lane:
        """Wait until Stripe may be called again, and for our own turn.

        Raises:
            StripeTransientError: not within the time that the caller can wait.
        """
        lane = current_lane()
        while (wait := self._resume_at - time.monotonic()) > 0:
            if wait > WAIT_SECONDS_MAX[lane]:
                raise StripeTransientError("rate_limited", "Stripe's rate limit holds", status=429)
            await asyncio.sleep(wait)
        try:
            await self._budget.take(lane)
        except NotInTimeError as error:
            raise StripeTransientError("own_limit", str(error), status=429) from None
        if method == "get":
            STRIPE_READS_TOTAL.labels(lane=lane).inc()
        return lane

    def _slow_down(self, error: stripe.StripeError, operation: str) -> None:
        """After a 429 nobody calls this account for a while, longer each time it happens again."""
        headers: Mapping[str, str] = error.headers or {}
        asked = headers.get("Retry-After") or headers.get("retry-after") or ""
        given = asked.isascii() and asked.isdigit()
        pause = min(float(asked), ASKED_PAUSE_SECONDS_MAX) if given else self._pause_seconds
        pause *= random.uniform(1.0, 1.5)  # noqa: S311 - jitter
        self._resume_at = max(self._resume_at, time.monotonic() + pause)
        self._pause_seconds = min(self._pause_seconds * 2, PAUSE_SECONDS_MAX)
        log.warning("stripe_rate_limited", operation=operation, pause_seconds=round(pause, 2))


class _Breaker:
    """Leaves an account alone that only fails: longer each time, with one call to try it again."""

    def __init__(self) -> None:
        self._failures = 0
        self._closed_until = 0.0
        self._pause_seconds = BREAK_SECONDS_MIN

    def check(self) -> None:
        """Let a call through, or not.

        Raises:
            StripeTransientError: not now.
        """
        if self._failures < FAILURES_BEFORE_BREAKING:
            return
        now = time.monotonic()
        if now < self._closed_until:
            raise StripeTransientError("circuit_open", "the account only fails and is left alone")
        self._closed_until = now + self._pause_seconds

    def note(self, *, failed: bool) -> None:
        """How a call ended."""
        if not failed:
            self._failures, self._pause_seconds = 0, BREAK_SECONDS_MIN
            return
        self._failures += 1
        if self._failures >= FAILURES_BEFORE_BREAKING:
            self._closed_until = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(self._pause_seconds * 2, BREAK_SECONDS_MAX)


@dataclass(frozen=True)
class _Outcome:
    error: StripeCallError
    code_class: str
    rate_limited: bool = False


def _classify(error: stripe.StripeError) -> _Outcome:
    """Which of our kinds an error of the SDK is."""
    status, code = error.http_status, _code_of(error)
    message = error.user_message or str(error)
    if status == 429:
        return _Outcome(StripeTransientError(code, message, status=429), "rate_limited", True)
    if status is None or status >= 500 or status == 409:
        return _Outcome(StripeTransientError(code, message, status=status), "failed")
    if status == 401:
        return _Outcome(StripeStoppedError(code, "Stripe refused the key", status=401), "denied")
    if status == 403:
        stopped = code == ACCOUNT_INVALID
        access: type[StripeAccessError] = StripeStoppedError if stopped else StripeAccessError
        return _Outcome(access(code, message, status=403), "denied")
    missing = status == 404
    refused = StripeMissingError if missing else StripeRefusedError
    return _Outcome(refused(code, message, status=status), "missing" if missing else "refused")


def _code_of(error: stripe.StripeError) -> str:
    """Stripe's own word; on 401 and 403 the SDK leaves it in the body it parsed."""
    body: Any = error.json_body
    details = body.get("error") if isinstance(body, dict) else None
    code = error.code or (details.get("code") if isinstance(details, dict) else None)
    return str(code)[:100] if code else type(error).__name__


def _answer(response: stripe.StripeResponse) -> Json:
    """What Stripe answered: read anew, for the SDK's own containers take longer to copy."""
    answer: Json = json.loads(response.body)
    return _plain(answer) if NUL in response.body else answer


def _plain(value: Any) -> Any:
    """The same without NUL characters, which Postgres cannot keep."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, str) and "\x00" in value:
        return value.replace("\x00", "")
    return value
