"""The public API as the console calls it: through the origin, with what the browser showed.

Two kinds of call exist: those about the session carry the browser's cookie and go to the tenants
service; all others carry the 60-second assertion that the session gave for this request.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from libs.observability.logging import get_logger
from libs.observability.remote import remote_address

TIMEOUT_SECONDS = 10.0
CONNECTIONS_MAX = 64
CALLS_AT_ONCE_MAX = 8
SESSION_COOKIES = ("__Host-sluice_session", "sluice_session")
"""The session's cookie on https, and on the plain http of a laptop."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_logger = get_logger(__name__)

_FIELD_PLACE = re.compile(r"^(body|query|path)\.(values\.)?")


class ApiProblem(Exception):  # noqa: N818 - the word of RFC 9457
    """The API refused; `detail` is its sentence, for the person to read."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str = "This did not work",
        code: str = "problem",
        request_id: str | None = None,
    ) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.code = code
        self.request_id = request_id
        super().__init__(f"{status} {code}")


class NotSignedIn(Exception):  # noqa: N818 - a state, not a failure
    """There is no session, or it has ended."""


@dataclass(frozen=True)
class SessionAnswer:
    """What signing in or out brought: cookies to pass on to the browser as they are."""

    set_cookies: tuple[str, ...]


class Origin:
    """A client of the API; one for the whole process, which keeps nothing of anybody."""

    def __init__(self, http: httpx.AsyncClient, browser_origin: str) -> None:
        self._http = http
        self._browser_origin = browser_origin

    async def sign_in(self, cookies: Mapping[str, str], email: str, password: str) -> SessionAnswer:
        """Open a session, in place of the one the browser has.

        Raises:
            ApiProblem: the e-mail or password is wrong, or too many were tried.
        """
        answer = await self._send(
            "POST",
            "/api/v1/session",
            json={"email": email, "password": password},
            headers=self._as_browser(cookies),
        )
        return _cookies_of(answer)

    async def sign_out(self, cookies: Mapping[str, str]) -> SessionAnswer:
        """End the session."""
        answer = await self._send("DELETE", "/api/v1/session", headers=self._as_browser(cookies))
        return _cookies_of(answer)

    async def accept_invitation(
        self, cookies: Mapping[str, str], body: Mapping[str, Any]
    ) -> SessionAnswer:
        """Use an invitation up, and open a session where there is none of its user yet.

        Raises:
            ApiProblem: the invitation is not valid, or more must be shown for it.
        """
        answer = await self._send(
            "POST", "/api/v1/invitations/accept", json=body, headers=self._as_browser(cookies)
        )
        return _cookies_of(answer)

    async def assertion(
        self, cookies: Mapping[str, str], choice: Mapping[str, str]
    ) -> dict[str, Any]:
        """A 60-second assertion for the session, with who is signed in.

        Args:
            cookies: the browser's.
            choice: the tenant or mode wanted, where the person chose one.

        Raises:
            NotSignedIn: no session, or it has ended.
            ApiProblem: the choice is not this person's to make.
        """
        if not any(cookies.get(name) for name in SESSION_COOKIES):
            raise NotSignedIn
        try:
            answer = await self._send(
                "POST",
                "/api/v1/session/assertion",
                json=dict(choice),
                headers=self._as_browser(cookies),
            )
        except ApiProblem as problem:
            if problem.status == 401:
                raise NotSignedIn from None
            raise
        return _json_object(answer)

    def bearer(self, assertion: str, tenant: str | None) -> "Api":
        """The API with the rights of an assertion, for a tenant where one was chosen."""
        headers = {"Authorization": f"Bearer {assertion}"}
        if tenant is not None:
            headers["X-Tenant-ID"] = tenant
        return Api(self, headers)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        """A call of the API; its answer, which is a success.

        Raises:
            ApiProblem: any answer that is no success, or none.
        """
        parts: dict[str, Any] = {"headers": headers}
        if body is not None:
            parts["json"] = body
        if query:
            parts["params"] = query
        return await self._send(method, path, **parts)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> AsyncGenerator[httpx.Response, None]:
        """GET of an answer that is too large to hold; read it within the block.

        Raises:
            ApiProblem: any answer that is no success, or none.
        """
        given = {**headers, **_forwarded()}
        request = self._http.build_request("GET", path, params=query, headers=given)
        try:
            answer = await self._http.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable("GET", error) from None
        try:
            if not answer.is_success:
                await answer.aread()
                raise _problem_of(answer)
            yield answer
        finally:
            await answer.aclose()

    def _as_browser(self, cookies: Mapping[str, str]) -> dict[str, str]:
        """The headers that the tenants service checks; no other cookie is passed on."""
        kept = [f"{name}={cookies[name]}" for name in SESSION_COOKIES if cookies.get(name)]
        return {"Origin": self._browser_origin} | ({"Cookie": "; ".join(kept)} if kept else {})

    async def _send(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **parts: Any
    ) -> httpx.Response:
        given = {**(headers or {}), **_forwarded()}
        try:
            answer = await self._http.request(method, path, headers=given, **parts)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(method, error) from None
        if not answer.is_success:
            raise _problem_of(answer)
        return answer


class Api:
    """The API as one person may use it, for one request of theirs."""

    def __init__(self, origin: Origin, headers: Mapping[str, str]) -> None:
        self._origin = origin
        self._headers = headers

    async def read(self, shape: type[M], path: str, **query: str | None) -> M:
        """GET; the answer as `shape`.

        Raises:
            ApiProblem: the API refused, or answered something else than this console knows.
        """
        found, _ = await self.read_tagged(shape, path, **query)
        return found

    async def read_tagged(
        self, shape: type[M], path: str, **query: str | None
    ) -> tuple[M, str | None]:
        """GET; the answer as `shape`, and its ETag.

        Raises:
            ApiProblem: as `read`.
        """
        answer = await self._origin.call("GET", path, query=_given(query), headers=self._headers)
        return _as(shape, path, answer), answer.headers.get("etag")

    async def change(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        once: str | None = None,
        etag: str | None = None,
        **query: str | None,
    ) -> httpx.Response:
        """A call that changes something.

        Args:
            method: POST, PUT, PATCH or DELETE.
            path: of the API.
            body: sent as JSON.
            once: an idempotency key.
            etag: the state that the change is of; another one is not changed.
            query: of the address.

        Raises:
            ApiProblem: the API refused.
        """
        headers = dict(self._headers)
        if once:
            headers["Idempotency-Key"] = once
        if etag:
            headers["If-Match"] = etag
        return await self._origin.call(
            method, path, body=body, query=_given(query), headers=headers
        )

    async def make(
        self,
        shape: type[M],
        path: str,
        body: Mapping[str, Any],
        *,
        once: str | None = None,
    ) -> M:
        """POST; the answer as `shape`.

        Raises:
            ApiProblem: as `read`.
        """
        return _as(shape, path, await self.change("POST", path, body, once=once))

    def stream(self, path: str, **query: str | None) -> AbstractAsyncContextManager[httpx.Response]:
        """GET of an answer that is too large to hold.

        Raises:
            ApiProblem: the API refused.
        """
        return self._origin.stream(path, _given(query), self._headers)

    def for_tenant(self, tenant: str) -> "Api":
        """The same person's API for one tenant."""
        return Api(self._origin, {**self._headers, "X-Tenant-ID": tenant})


async def all_of(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Several calls at once, a bounded number at a time; their results in order."""
    gate = asyncio.Semaphore(CALLS_AT_ONCE_MAX)

    async def one(call: Awaitable[T]) -> T:
        async with gate:
            return await call

    tasks = [asyncio.create_task(one(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def open_client(api_url: str) -> httpx.AsyncClient:
    """The HTTP client of the process: no proxy, no redirects, bounded in time and number."""
    return httpx.AsyncClient(
        base_url=api_url,
        timeout=TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
        follow_redirects=False,
        trust_env=False,
        # The client serves everybody: it must remember nobody's session.
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        headers={"Accept": "application/json"},
    )


def _given(query: Mapping[str, str | None]) -> dict[str, str]:
    """The query without what is None; `from_` stands for `from`."""
    return {name.rstrip("_"): value for name, value in query.items() if value is not None}


def _forwarded() -> dict[str, str]:
    """Where the browser is, for the audit log and the limits on sign-ins."""
    address = remote_address()
    return {} if address is None else {"X-Forwarded-For": address}


def _unreachable(method: str, error: Exception) -> ApiProblem:
    _logger.warning("api_unreachable", method=method, error=type(error).__name__)
    return ApiProblem(
        503,
        "The API does not answer at the moment. Try again shortly; "
        "`make status` shows which service is down.",
        title="Not available",
        code="unavailable",
    )


def _as(shape: type[M], path: str, answer: httpx.Response) -> M:
    try:
        return shape.model_validate(_json_object(answer))
    except ValidationError as error:
        fields = [".".join(str(part) for part in each["loc"]) for each in error.errors()]
        _logger.warning("api_answer_unknown", path=path, fields=fields[:10])
        raise ApiProblem(
            502,
            "The API answered in a form that this version of the console does not know. "
            "Update the console together with the services.",
            title="Versions do not fit",
            code="answer_unknown",
        ) from None


def _cookies_of(answer: httpx.Response) -> SessionAnswer:
    return SessionAnswer(tuple(answer.headers.get_list("set-cookie")))


def _json_object(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = json.loads(answer.content, parse_float=Decimal)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ApiProblem(
            502, "The API answered something that is no JSON object.", code="answer_unknown"
        )
    return found


def _problem_of(answer: httpx.Response) -> ApiProblem:
    """The API's own words where it gave some."""
    try:
        body = json.loads(answer.content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("detail"), str):
        return ApiProblem(answer.status_code, "The API refused and did not say why.")
    return ApiProblem(
        answer.status_code,
        _of_fields(body.get("fields")) or body["detail"],
        title=str(body.get("title") or "This did not work"),
        code=str(body.get("code") or "problem"),
        request_id=answer.headers.get("request-id"),
    )


def _of_fields(fields: object) -> str | None:
    """The fields that are not valid, each with its sentence; None where the problem names none."""
    if not isinstance(fields, list):
        return None
    told = [
        f"{_FIELD_PLACE.sub('', str(each.get('field')))}: {each.get('detail')}"
        for each in fields[:5]
        if isinstance(each, dict)
    ]
    return "Not valid. " + " ".join(told) if told else None
