"""What every request leaves behind: a request id, a span, figures, security headers, one log line.

The outermost layer of a service. It also catches whatever nobody expected, logs it once and answers
a 500 that says nothing of it.
"""

import logging
import os
import re
import time
from functools import cache
from typing import Any

import prometheus_client
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from libs.observability.logging import get_logger
from libs.observability.metrics import HTTP_REQUEST_SECONDS, HTTP_REQUESTS_TOTAL
from libs.observability.remote import serving
from libs.observability.tracing import HEADER_NAMES, extract, start_span
from libs.web.answers import internal_error
from libs.web.forwarded import LOOPBACK, address_of
from libs.web.health_routes import PATHS as HEALTH_PATHS

REQUEST_ID_HEADER = b"request-id"
REQUEST_ID_BYTES = 16
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_TRACE_HEADERS = frozenset(name.encode() for name in HEADER_NAMES)
_KNOWN_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

# An API answer is data: no page may frame it, run it or guess its type. A service that serves pages
# sets its own policy, which is left alone.
_SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
_SECURITY_HEADER_PAIRS = tuple(_SECURITY_HEADERS.items())

_logger = get_logger(__name__)


class RequestObserver:
    """Wraps the whole application of a service."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and record how it went."""
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        started = time.perf_counter()
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "OTHER"
        bound = bind_contextvars(request_id=request_id)
        try:
            with (
                serving(address_of(scope, _proxies(scope))),
                start_span(method, parent=_trace_of(scope), kind=SpanKind.SERVER) as span,
            ):
                try:
                    await self._app(scope, receive, answer.send)
                except Exception as error:  # noqa: BLE001 - the last place that can answer
                    response = internal_error(Request(scope), error)
                    if not answer.started:
                        await response(scope, receive, answer.send)
                route = _route_of(scope)
                if span.is_recording():
                    _describe(span, method, route, answer.status)
                _record(method, route, answer.status, time.perf_counter() - started)
        finally:
            reset_contextvars(**bound)


def _describe(span: Span, method: str, route: str, status: int) -> None:
    span.update_name(f"{method} {route}")
    span.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
    )
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


class _Answer:
    """Adds headers to the answer on its way out and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.started = False
        # What stays when the caller goes away before there is an answer.
        self.status = 499

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers: list[tuple[bytes, bytes]] = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            if present.isdisjoint(_SECURITY_HEADERS):
                headers += _SECURITY_HEADER_PAIRS
            else:
                headers += [pair for pair in _SECURITY_HEADER_PAIRS if pair[0] not in present]
            headers.append((REQUEST_ID_HEADER, self._request_id.encode()))
            message = {**message, "headers": headers}
        await self._send(message)


def _record(method: str, route: str, status: int, seconds: float) -> None:
    _counter(method, route, status).inc()
    _histogram(method, route).observe(seconds)
    if status < 400 and not logging.getLogger().isEnabledFor(logging.DEBUG):
        # Most requests end here: no record is made up that nobody wants.
        return
    write = _logger.info if status >= 400 else _logger.debug
    write(
        "http_request_answered",
        method=method,
        route=route,
        status=status,
        duration_ms=round(seconds * 1000, 1),
    )


@cache
def _counter(method: str, route: str, status: int) -> prometheus_client.Counter:
    """The one of these labels; there are as many as the registry itself keeps."""
    return HTTP_REQUESTS_TOTAL.labels(method, route, str(status))


@cache
def _histogram(method: str, route: str) -> prometheus_client.Histogram:
    return HTTP_REQUEST_SECONDS.labels(method, route)


def _request_id(scope: Scope) -> str:
    """The proxy's request id where it looks like one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return str(text)
    return os.urandom(REQUEST_ID_BYTES).hex()


def _proxies(scope: Scope) -> frozenset[str]:
    """The proxies that the process was started with; `serve` sets them."""
    app = scope.get("app")
    trusted: frozenset[str] = getattr(getattr(app, "state", None), "trusted_proxies", LOOPBACK)
    return trusted


def _trace_of(scope: Scope) -> Context:
    """The trace that the caller goes on with; an empty context where it names none."""
    told = [(name.decode(), value) for name, value in scope["headers"] if name in _TRACE_HEADERS]
    return extract(told) if told else Context()


def _route_of(scope: Scope) -> str:
    """The template of the route taken; a path itself would make a series of every id."""
    route: Any = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return path if isinstance(path, str) else "unmatched"
