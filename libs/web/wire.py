"""HTTP/1.1 as it comes off the wire: uvicorn's protocol over httptools, held to bounds.

The parser (llhttp, in C) is strict about what a request looks like, and leaves to us how much of one
it keeps while the rest is on its way, which host a request is for, and what else a connection may
turn into. What it refuses never reaches the application, so it is answered here.
"""

import json
import re
from asyncio import TimerHandle
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from libs.observability.logging import get_logger
from libs.web.problems import (
    MEDIA_TYPE,
    HeadersTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    Problem,
    RequestTimeout,
)

HELD_BYTES_MAX = 64 * 1024
"""A head, a trailer or the words beside a chunk's size may have come so far without an end."""

PIPELINED_MAX = 16
"""So many requests may be asked for before the one that is being answered has its answer."""

HEAD_SECONDS = 15.0
"""A head comes whole within this time of its first byte; the first one of the connection being made."""

LINGER_SECONDS = 2.0
VERSIONS = ("1.0", "1.1")
HEAD_BEGINS = b"HTTP/"
_ANY_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40} /")

_logger = get_logger(__name__)


class _Lingering:
    """A connection that is closed only when the peer cannot still be sending its request.

    A peer that is sending when the connection closes sees it broken and loses the answer. So where the
    answer came before the request had ended, what still comes is thrown away for a moment.

    The head of an answer waits for what is said next in the same step, and they go as one.
    """

    def __init__(self, transport: Any, protocol: "Http") -> None:
        self._transport = transport
        self._protocol = protocol
        self._lingers = False
        self._head: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing can be said any more."""
        return self._lingers or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Say it, a head with what follows it."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif data.startswith(HEAD_BEGINS):
            self._head = data
            self._protocol.loop.call_soon(self._write_head)
        else:
            self._transport.write(data)

    def _write_head(self) -> None:
        """Say a head that nothing has followed yet, where somebody is still there."""
        head, self._head = self._head, None
        if head is not None and not self._transport.is_closing():
            self._transport.write(head)

    def close(self) -> None:
        """Close now, or after a moment."""
        self._write_head()
        if self._lingers or not self._protocol.is_being_sent_to():
            self._transport.close()
        else:
            self.linger()

    def linger(self) -> None:
        """Say that nothing more will come, and close after a moment."""
        self._lingers = True
        self._write_head()
        self._protocol.throw_away()
        self._transport.write_eof()
        self._protocol.loop.call_later(LINGER_SECONDS, self._transport.close)


class Http(HttpToolsProtocol):
    """One connection; see the module."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._held_bytes = 0
        self._in_head = True
        self._refused = False
        self._method, self._version = b"", b""
        self._before: RequestResponseCycle | None = None
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Somebody connects."""
        self._connection = _Lingering(transport, self)
        super().connection_made(self._connection)  # type: ignore[arg-type]
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def is_being_sent_to(self) -> bool:
        """Whether a request has not come to its end, or more than will be read."""
        return self._refused or (self.cycle is not None and self.cycle.more_body)

    def throw_away(self) -> None:
        """Nothing that still comes is read."""
        self._refused = True
        self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Parse what came; refuse what is no request, and what never becomes one."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._held_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            known_form = _ANY_METHOD.match(data)
            self._refuse(MethodNotAllowed() if known_form else InvalidRequest())
        except httptools.HttpParserError:
            self._refuse(InvalidRequest())
        except httptools.HttpParserUpgrade as upgrade:
            # The parser takes what follows for another protocol. It is answered as if nothing had
            # been asked for (RFC 9110, 7.8), body and all.
            # Nothing may follow it: neither a request nor another such wish.
            self.parser = httptools.HttpRequestParser(self)
            self.data_received(self._head_without_upgrade() + data[upgrade.args[0] :])
        else:
            if self._held_bytes > HELD_BYTES_MAX:
                self._refuse(HeadersTooLarge())
            elif self._head_timer is None and self._is_amid_head():
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what comes behind the body (trailers) was seen by no check and is left out."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: let the request in.

        Raises:
            ValueError: it is of another version, for no or several hosts (RFC 9112, 3.2), for a
                tunnel, or one too many before the first is answered.
        """
        self._held_bytes, self._in_head = 0, False
        self._stop_head_timer()
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if version not in VERSIONS or hosts > 1 or (version == "1.1" and not hosts):
            raise ValueError
        self._method = self.parser.get_method()
        if self._method == b"CONNECT":
            raise ValueError
        self._version = version.encode()
        if not self.parser.should_upgrade():
            if len(self.pipeline) >= PIPELINED_MAX:
                raise ValueError
            self._before = self.cycle
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of a body, which the application counts."""
        self._held_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request ends."""
        self._held_bytes = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _head_without_upgrade(self) -> bytes:
        """The head that came last, as one that asks for nothing but an answer."""
        asked = (b"connection", b"http2-settings", b"upgrade")
        lines = [b": ".join(header) for header in self.headers if header[0] not in asked]
        start = b"%s %s HTTP/%s" % (self._method, self.url, self._version)
        return b"\r\n".join([start, *lines, b"connection: close", b"", b""])

    def _is_amid_head(self) -> bool:
        """Whether part of a head came, or of the empty lines that may stand before one."""
        between = self.cycle is not None and not self.cycle.more_body
        return self._in_head or (between and self._held_bytes > 0)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        """The head is waited for no longer."""
        self._head_timer = None
        if self._refused or self.transport.is_closing():
            return
        if self._held_bytes or self.cycle is not None:
            self._refuse(
                RequestTimeout("The head did not arrive in time. Send it whole, and at once.")
            )
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Say what is wrong, as the last on this connection.

        What was asked for before is answered first, and then has been the last.
        """
        _logger.warning("http_request_malformed", code=problem.code)
        self._refused = True
        self._stop_head_timer()
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.more_body and self.pipeline:
                # It waits for its turn, which does not come: the one before is the last.
                self.pipeline.popleft()
                assert self._before is not None, "it waits for this one"
                self.cycle = self._before
            if not self.cycle.more_body:
                self.cycle.keep_alive = False
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                # Half of another answer is said already.
                self._connection.linger()
                return
        body = json.dumps(problem.body()).encode()
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self._connection.linger()
