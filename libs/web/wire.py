"""HTTP/1.1 as it comes off the wire: uvicorn's protocol over httptools, held to bounds.

The parser (llhttp, in C) is strict about what a request looks like, and leaves to us how much of one
it keeps while the rest is on its way, which host a request is for, and what else a connection may
turn into. What it refuses never reaches the application, so it is answered here.
"""

import json
import re
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from libs.observability.logging import get_logger
from libs.web.problems import (
    MEDIA_TYPE,
    HeadersTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    Problem,
)

HELD_BYTES_MAX = 64 * 1024
"""A head, a trailer or the words beside a chunk's size may have come so far without an end."""

LINGER_SECONDS = 2.0
VERSIONS = ("1.0", "1.1")
_ANY_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40} /")

_logger = get_logger(__name__)


class _Lingering:
    """A connection that is closed only when the peer cannot still be sending its request.

    A peer that is sending when the connection closes sees it broken and loses the answer. So where the
    answer came before the request had ended, what still comes is thrown away for a moment.
    """

    def __init__(self, transport: Any, protocol: "Http") -> None:
        self._transport = transport
        self._protocol = protocol
        self._lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing can be said any more."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close now, or after a moment."""
        if self._lingers or not self._protocol.is_being_sent_to():
            self._transport.close()
        else:
            self.linger()

    def linger(self) -> None:
        """Say that nothing more will come, and close after a moment."""
        self._lingers = True
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
        self._method = b""

    def connection_made(self, transport: Any) -> None:
        """Somebody connects."""
        self._connection = _Lingering(transport, self)
        super().connection_made(self._connection)  # type: ignore[arg-type]

    def is_being_sent_to(self) -> bool:
        """Whether a request has not come to its end."""
        return not self._refused and self.cycle is not None and self.cycle.more_body

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
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.data_received(self._head_without_upgrade() + data[upgrade.args[0] :])
        else:
            if self._held_bytes > HELD_BYTES_MAX:
                self._refuse(HeadersTooLarge())

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
            ValueError: it is of another version, for no or several hosts (RFC 9112, 3.2), or for a
                tunnel.
        """
        self._held_bytes, self._in_head = 0, False
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if version not in VERSIONS or hosts > 1 or (version == "1.1" and not hosts):
            raise ValueError
        self._method = self.parser.get_method()
        if self._method == b"CONNECT":
            raise ValueError
        if not self.parser.should_upgrade():
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
        start = b"%s %s HTTP/1.1" % (self._method, self.url)
        return b"\r\n".join([start, *lines, b"connection: close", b"", b""])

    def _refuse(self, problem: Problem) -> None:
        """Say what is wrong, as the last on this connection.

        What was asked for before is answered first, and then has been the last.
        """
        _logger.warning("http_request_malformed", code=problem.code)
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            if not self.cycle.more_body:
                self.cycle.keep_alive = False
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = json.dumps(problem.body()).encode()
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self._connection.linger()
