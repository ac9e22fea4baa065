"""The way of a request: key, fault, parameters, idempotency, handler, answer."""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import secrets
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from services.stripe_sim import accounts, errors, form, params, routing
from services.stripe_sim.errors import ApiError
from services.stripe_sim.faults import Fault
from services.stripe_sim.render import render
from services.stripe_sim.sandbox import Sandbox, Scope, letters
from services.stripe_sim.settings import API_VERSION, LIVE_PREFIXES

IDEMPOTENCY_KEY_CHARACTERS_MAX = 255
ANSWERS_KEPT_SECONDS = 24 * 3600

log = logging.getLogger("stripe_sim")


@dataclass
class Call:
    """One request on its way."""

    scope: Scope
    method: str
    path: str
    raw: dict[str, Any]
    key: str | None

    @property
    def fingerprint(self) -> str:
        """What must be equal where an idempotency key is used again."""
        text = json.dumps([self.method, self.path, self.raw], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class CutResponse(Response):
    """Breaks the connection off in the middle of the answer."""

    async def __call__(self, _scope: AsgiScope, _receive: Receive, send: Send) -> None:
        """Promise a body, send half of it and leave."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        with contextlib.suppress(RuntimeError):
            half = self.body[: len(self.body) // 2]
            await send({"type": "http.response.body", "body": half})


class Api:
    """Answers everything under /v1 and /v2."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._in_progress: set[tuple[str, str]] = set()
        self._second = 0
        self._calls_this_second: dict[str, int] = {}

    async def answer(self, request: Request) -> Response:
        """Answer one request in Stripe's form, whatever was sent."""
        request_id = "req_" + letters(secrets.token_bytes(12), 14)
        try:
            return await self._answer(request, request_id)
        except ApiError as error:
            self.sandbox.store.rollback()
            return _json(error.status, error.body(request_id), request_id)
        except Exception:
            self.sandbox.store.rollback()
            log.exception("request %s failed", request_id)
            return _json(500, errors.broken().body(request_id), request_id)

    async def _answer(self, request: Request, request_id: str) -> Response:
        account, platform = self._authenticate(request)
        self._limit_rate(account)
        raw = await read_request(request)
        if raw is None:
            return _json(
                413, errors.invalid("Request body too large.").body(request_id), request_id
            )
        idempotency_key = request.headers.get("idempotency-key")
        if request.method == "GET":
            idempotency_key = None
        scope = Scope(self.sandbox, account, request_id, idempotency_key, platform)
        call = Call(scope, request.method, request.url.path, raw, idempotency_key)
        faults = self.sandbox.faults
        delay = faults.strike_call("delay", call.method, call.path, account)
        if call.key is None:
            if delay:
                await asyncio.sleep(delay.seconds)
            return self._execute(call)
        return await self._once(call, delay)

    async def _once(self, call: Call, delay: Fault | None) -> Response:
        """Answer a request with an idempotency key: the first time by doing it."""
        account, key = call.scope.account, str(call.key)
        if len(key) > IDEMPOTENCY_KEY_CHARACTERS_MAX:
            raise errors.invalid("Idempotency key must be at most 255 characters.")
        kept = self.sandbox.store.answer(account, key)
        if kept is not None:
            fingerprint, status, body, first_id = kept
            if fingerprint != call.fingerprint:
                raise errors.idempotency_mismatch(key)
            return _reply(
                status,
                body,
                str(call.scope.request_id),
                {
                    "Idempotency-Key": key,
                    "Idempotent-Replayed": "true",
                    "Original-Request": first_id,
                },
            )
        if (account, key) in self._in_progress:
            raise errors.idempotency_in_use(key)
        self._in_progress.add((account, key))
        try:
            if delay:
                await asyncio.sleep(delay.seconds)
            return self._execute(call)
        finally:
            self._in_progress.discard((account, key))

    def _execute(self, call: Call) -> Response:
        """Do the work and commit it, with the faults that are on for this call."""
        faults, store = self.sandbox.faults, self.sandbox.store
        where = (call.method, call.path, call.scope.account)
        fault = faults.strike_call("error", *where)
        if fault is not None and fault.moment == "before":
            return self._fail(call, fault)
        status, body, keep = self._run(call)
        if fault is not None:
            return self._fail(call, fault)
        if keep:
            self._keep(call, status, body)
        store.commit()
        headers = {"Idempotency-Key": call.key} if call.key else {}
        if faults.strike_call("cut", *where):
            return CutResponse(body, status, headers, "application/json")
        return _reply(status, body, str(call.scope.request_id), headers)

    def _run(self, call: Call) -> tuple[int, bytes, bool]:
        """Return (status, body, whether the answer is kept under the idempotency key)."""
        scope = call.scope
        try:
            found = routing.match(call.method, call.path)
            if found is None:
                raise errors.unknown_path(call.method, call.path)
            entry, arguments = found
            values = params.read(call.raw, entry.schema)
            expand = values.pop("expand", None) or []
            answer = entry.handler(scope, values, *arguments)
            return 200, _dump(render(scope, answer, expand)), True
        except ApiError as error:
            if not error.keeps_effects:
                self.sandbox.store.rollback()
            body = _dump(error.body(str(scope.request_id)))
            return error.status, body, error.keeps_effects

    def _fail(self, call: Call, fault: Fault) -> Response:
        error = errors.too_many_requests() if fault.status == 429 else errors.broken()
        body = _dump(error.body(str(call.scope.request_id)))
        if fault.stored and fault.status >= 500:
            self._keep(call, fault.status, body)
        self.sandbox.store.commit()
        return _reply(fault.status, body, str(call.scope.request_id), {})

    def _keep(self, call: Call, status: int, body: bytes) -> None:
        if call.key is not None:
            answer = (call.fingerprint, status, body, str(call.scope.request_id))
            self.sandbox.store.keep_answer(
                call.scope.account, call.key, answer, call.scope.wall_now()
            )

    def _authenticate(self, request: Request) -> tuple[str, str | None]:
        """Return the account the call is for, and the platform that acts for it.

        Raises:
            ApiError: no key, an unknown, live or revoked one, or no access to the account named.
        """
        key = key_of(request)
        if not key:
            raise errors.no_key()
        if key.startswith(LIVE_PREFIXES):
            raise ApiError(401, "The sandbox takes test keys only, never a live one.")
        entry = self.sandbox.keys.get(key)
        if entry is None:
            raise errors.bad_key(key)
        owner = entry.account
        if entry.kind == "revoked":
            raise errors.expired_key(key)
        if entry.kind == accounts.PUBLISHABLE:
            raise ApiError(
                401,
                "This API call cannot be made with a publishable API key. Please use a secret API "
                "key. You can find a list of your API keys at "
                "https://dashboard.stripe.com/account/apikeys.",
                code="secret_key_required",
            )
        if entry.permissions is not None:
            _require_permission(request, key, entry.permissions)
        headers = request.headers
        wanted = headers.get("stripe-account") or headers.get("stripe-context") or owner
        if wanted != owner:
            account = self.sandbox.store.get(wanted, "account", wanted)
            if account is None or owner not in account["_sim"]["platforms"]:
                raise errors.no_access(key, wanted)
            return wanted, owner
        return owner, None

    def _limit_rate(self, account: str) -> None:
        limit = self.sandbox.settings.rate_limit_per_second
        if not limit:
            return
        second = self.sandbox.wall_now()
        if second != self._second:
            self._second = second
            self._calls_this_second.clear()
        calls = self._calls_this_second.get(account, 0) + 1
        self._calls_this_second[account] = calls
        if calls > limit:
            raise errors.too_many_requests()


def _require_permission(request: Request, key: str, permissions: list[str]) -> None:
    """Refuse what a restricted key may not do: `<noun>:read` or `<noun>:write` (which reads too).

    Raises:
        ApiError: the permission is missing.
    """
    noun = request.url.path.split("/")[2]
    allowed = {f"{noun}:write"} | ({f"{noun}:read"} if request.method == "GET" else set())
    if not allowed & set(permissions):
        verb = "read" if request.method == "GET" else "write"
        raise errors.no_permission(key, f"{noun}_{verb}")


def key_of(request: Request) -> str:
    """Return the API key of a request, from Bearer or Basic credentials; empty where none is."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            decoded = base64.b64decode(value, validate=True).decode("ascii", "replace")
            return decoded.partition(":")[0]
    return ""


async def read_request(request: Request) -> dict[str, Any] | None:
    """Return the nested parameters of query and body, or None where the body is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > form.BODY_BYTES_MAX:
            return None
    if request.url.path.startswith("/v2/") and body:
        return {**form.parse(request.url.query), **form.parse_json(bytes(body))}
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError:
        raise errors.invalid("Invalid request: the body must be form-encoded.") from None
    query = form.parse(request.url.query)
    return {**query, **form.parse(text)} if text else query


def _dump(answer: Any) -> bytes:
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()


def _json(status: int, answer: Any, request_id: str) -> Response:
    return _reply(status, _dump(answer), request_id, {})


def _reply(status: int, body: bytes, request_id: str, headers: dict[str, str]) -> Response:
    return Response(
        body,
        status,
        {"Request-Id": request_id, "Stripe-Version": API_VERSION, **headers},
        "application/json",
    )
