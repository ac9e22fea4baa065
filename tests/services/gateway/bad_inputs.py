"""The table of bad webhooks: what is sent, what is answered, what comes of it."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from libs.clock import utc_now
from libs.db.pool import Database
from services.gateway.signature import sign
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import (
    CONNECT,
    CURRENT,
    MASTER_KEY,
    PEPPER,
    PREVIOUS,
    URL,
    snapshot_event,
)
from tests.services.gateway.process import GatewayProcess

BODY_BYTES_MAX = 512 * 1024
BODY_SECONDS = 10.0
ENDLESS_CHUNKS = 1_000
NEVER_SHOWN = ("Traceback", 'File "', ".py", "asyncpg", "whsec", "sk_test", "select ", "insert ")


@dataclass(frozen=True)
class Door:
    """A running gateway, two tenants with accounts of their own, and who looks into its archive."""

    process: GatewayProcess
    database: Database
    client: httpx.AsyncClient
    one: Own
    two: Own

    async def effects(self) -> tuple[int, int]:
        """Rows of the archive, and events for the others."""
        async with self.database.maintenance() as tx:
            row = await tx.fetchrow(
                "select (select count(*) from webhook_event), "
                "(select count(*) from outbox where topic = 'stripe.events')"
            )
        assert row is not None
        return row[0], row[1]

    def secrets(self) -> list[str]:
        """What no answer and no line of the log may hold."""
        known = (CURRENT, PREVIOUS, CONNECT, PEPPER, MASTER_KEY)
        return [each.decode() for each in known] + [self.one.secret, self.two.secret]


@dataclass(frozen=True)
class Sent:
    """A request: its body and its signature headers."""

    body: bytes
    signatures: tuple[bytes, ...] = ()
    url: str = URL
    headers: tuple[tuple[str, str], ...] = ()


Make = Callable[[Door], Sent]


@dataclass(frozen=True)
class Case:
    """A bad input and what must come of it.

    Attributes:
        number: in the list of kinds of bad webhooks, 1 to 22.
        said: the code of the problem, or what the receipt says.
        logged: the line that says why; each request has one that says how it was answered, too.
    """

    number: int
    name: str
    make: Make
    status: int
    said: str
    kept: int = 0
    published: int = 0
    logged: str | None = None

    def __str__(self) -> str:
        return f"bad_{self.number}_{self.name}"


def now() -> int:
    return int(utc_now().timestamp())


def event(**changes: Any) -> bytes:
    return json.dumps(snapshot_event(**changes)).encode()


def signed(
    body: bytes, secret: bytes = CURRENT, *, url: str = URL, at: int = 0, **headers: str
) -> Sent:
    """A body with its signature by a secret."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Sent(body, (sign(secret, body, now() + at),), url, named)


def header(change: Callable[[bytes], bytes]) -> Make:
    """A good request whose signature header was changed."""

    def make(_: Door) -> Sent:
        body = event()
        return Sent(body, (change(sign(CURRENT, body, now())),))

    return make


def digest(good: bytes) -> bytes:
    return good.partition(b"v1=")[2]


def inside(text: str) -> bytes:
    """An event with this JSON somewhere inside."""
    return json.dumps(snapshot_event(extra="MARK")).replace('"MARK"', text).encode()


def refused(number: int, name: str, make: Make) -> Case:
    """Not signed by whom the address belongs to."""
    return Case(number, name, make, 400, "signature_invalid", logged="webhook_refused")


def no_event(number: int, name: str, body: bytes) -> Case:
    """Signed, but not an event."""
    return Case(number, name, lambda _: signed(body), 400, "not_an_event")


def quarantined(number: int, name: str, make: Make) -> Case:
    """Signed, but not what the secret stands for: kept aside and told to nobody."""
    return Case(number, name, make, 200, "quarantined", 1, 0, "webhook_quarantined")


def stored(number: int, name: str, make: Make) -> Case:
    """Odd, and an event all the same."""
    return Case(number, name, make, 200, "stored", 1, 1)


def changed(body: bytes, other: bytes) -> Sent:
    """The signature of one body with another."""
    return Sent(other, (sign(CURRENT, body, now()),))


ONE_BYTE = event()
THIN = {
    "id": "evt_thin_1",
    "object": "v2.core.event",
    "type": "v2.core.account[requirements].updated",
    "livemode": False,
    "created": "2026-10-30T12:00:00.000Z",
    "related_object": None,
    "context": None,
}

CASES = [
    refused(1, "no_signature", lambda _: Sent(event())),
    refused(1, "empty", lambda _: Sent(event(), (b"",))),
    refused(1, "no_pairs", lambda _: Sent(event(), (b",,===,",))),
    refused(1, "two_headers", lambda _: Sent(ONE_BYTE, (sign(CURRENT, ONE_BYTE, now()),) * 2)),
    refused(2, "wrong_secret", lambda _: signed(event(), b"whsec_wrong")),
    refused(2, "empty_secret", lambda _: signed(event(), b"")),
    refused(
        3,
        "a_tenants_secret_at_the_platforms_address",
        lambda door: signed(event(), door.one.secret.encode()),
    ),
    refused(
        3,
        "another_tenants_secret",
        lambda door: signed(event(), door.two.secret.encode(), url=door.one.url),
    ),
    refused(
        4,
        "the_platforms_secret_at_a_tenants_address",
        lambda door: signed(event(), CURRENT, url=door.one.url),
    ),
    refused(
        4,
        "the_connect_secret_at_a_tenants_address",
        lambda door: signed(event(), CONNECT, url=door.one.url),
    ),
    quarantined(
        4,
        "the_platforms_secret_on_a_connected_event",
        lambda _: signed(event(account="acct_one")),
    ),
    quarantined(4, "the_connect_secret_on_an_own_event", lambda _: signed(event(), CONNECT)),
    refused(5, "310_s_ago", lambda _: signed(event(), at=-310)),
    refused(5, "a_day_ago", lambda _: signed(event(), at=-86_400)),
    refused(6, "in_310_s", lambda _: signed(event(), at=310)),
    refused(6, "in_a_year", lambda _: signed(event(), at=86_400 * 365)),
    refused(7, "time_a_word", header(lambda good: b"t=soon,v1=" + digest(good))),
    refused(7, "time_empty", header(lambda good: b"t=,v1=" + digest(good))),
    refused(7, "time_huge", header(lambda good: b"t=" + b"9" * 400 + b",v1=" + digest(good))),
    refused(7, "time_negative", header(lambda good: b"t=-5,v1=" + digest(good))),
    refused(7, "time_a_fraction", header(lambda good: b"t=%d.5,v1=" % now() + digest(good))),
    refused(7, "time_with_a_plus", header(lambda good: good.replace(b"t=", b"t=+"))),
    refused(8, "two_times", header(lambda good: b"t=%d," % now() + good)),
    refused(8, "two_times_the_first_old", header(lambda good: b"t=1," + good)),
    refused(
        9,
        "a_hundred_signatures_over_4_kb",
        header(lambda good: good + b",v1=" + b",v1=".join([digest(good)] * 100)),
    ),
    Case(
        9,
        "five_thousand_signatures",
        header(lambda good: good + b",v1=00" * 5_000),
        431,
        "headers_too_large",
    ),
    stored(
        9,
        "fifty_of_which_the_last_fits",
        header(lambda good: good[:13] + b"v1=" + b"0" * 64 + b"," + b"v1=00," * 48 + good[13:]),
    ),
    refused(10, "non_ascii_v1", header(lambda _: b"t=%d,v1=" % now() + "ü".encode() * 32)),
    refused(10, "non_utf8_v1", header(lambda _: b"t=%d,v1=" % now() + b"\xff\xfe" * 32)),
    refused(10, "upper_case_v1", header(lambda good: good[:16] + digest(good).upper())),
    refused(11, "v0_only", header(lambda good: good.replace(b"v1=", b"v0="))),
    refused(12, "one_byte_changed", lambda _: changed(ONE_BYTE, ONE_BYTE.replace(b"_1", b"_2"))),
    refused(12, "one_byte_more", lambda _: changed(ONE_BYTE, ONE_BYTE + b"\n")),
    refused(
        12,
        "serialized_again",
        lambda _: changed(ONE_BYTE, json.dumps(json.loads(ONE_BYTE), indent=1).encode()),
    ),
    no_event(13, "not_utf8", b"\xff\xfe{}"),
    no_event(13, "utf16", json.dumps(snapshot_event()).encode("utf-16")),
    no_event(13, "a_byte_order_mark", b"\xef\xbb\xbf" + event()),
    refused(13, "not_utf8_and_unsigned", lambda _: Sent(b"\xff\xfe{}")),
    refused(
        14,
        "gzip_of_what_was_signed",
        lambda _: Sent(
            gzip.compress(ONE_BYTE),
            (sign(CURRENT, ONE_BYTE, now()),),
            headers=(("content-encoding", "gzip"),),
        ),
    ),
    no_event(14, "gzip_that_is_signed_itself", gzip.compress(ONE_BYTE)),
    Case(15, "too_large", lambda _: signed(b"x" * (BODY_BYTES_MAX + 1)), 413, "body_too_large"),
    stored(15, "just_not_too_large", lambda _: signed(event(extra="x" * (BODY_BYTES_MAX - 1_000)))),
    *(
        no_event(17, name, body)
        for name, body in {
            "an_array": b"[]",
            "null": b"null",
            "text": b'"x"',
            "a_number": b"7",
            "an_empty_object": b"{}",
            "nothing": b"",
            "another_object": b'{"object": "charge"}',
            "no_id": event(id=None),
            "nul_in_the_id": event(id="evt_\x00"),
            "created_beyond_time": event(created=10**20),
            "created_true": event(created=True),
            "livemode_a_word": event(livemode="no"),
            "account_odd": event(account="me"),
            "no_data": event(data=None),
        }.items()
    ),
    no_event(18, "deep", b"[" * 100_000),
    no_event(18, "deep_inside", inside('{"a":' * 60_000 + "1" + "}" * 60_000)),
    no_event(18, "deep_and_whole", b"[" * 100_000 + b"]" * 100_000),
    no_event(19, "nan", inside("NaN")),
    no_event(19, "infinity", inside("-Infinity")),
    no_event(19, "five_thousand_digits", inside("9" * 5_000)),
    stored(19, "an_exponent_beyond_floats", lambda _: signed(inside("1e400"))),
    no_event(20, "duplicate_keys", inside('{"a":1,"a":2}')),
    no_event(20, "duplicate_id", event().replace(b'{"id"', b'{"id": "evt_0", "id"', 1)),
    refused(
        21,
        "unknown_account_without_a_signature",
        lambda _: signed(event(account="acct_stranger"), b"whsec_no"),
    ),
    refused(21, "unknown_address", lambda _: signed(event(), url=f"{URL}/{'x' * 43}")),
    quarantined(
        21, "unknown_account_signed", lambda _: signed(event(account="acct_stranger"), CONNECT)
    ),
    quarantined(22, "livemode_mismatch", lambda _: signed(event(livemode=True))),
    stored(22, "unknown_type", lambda _: signed(event(type="galaxy.collapsed"))),
    stored(22, "unknown_api_version", lambda _: signed(event(api_version="2099-01-01.zinnia"))),
    stored(22, "no_api_version", lambda _: signed(event(api_version=None))),
    stored(22, "thin", lambda _: signed(json.dumps(THIN).encode())),
]


@dataclass(frozen=True)
class Wire:
    """A bad request as it goes over the wire, piece by piece."""

    number: int
    name: str
    pieces: Callable[[str], AsyncGenerator[bytes, None]]
    status: int
    said: str
    kept: int = 0
    published: int = 0
    logged: str | None = None

    def __str__(self) -> str:
        return f"bad_{self.number}_{self.name}"


def head(request_id: str, signature: bytes, framing: str = "accept: */*") -> bytes:
    """The head of a request."""
    lines = [f"POST {URL} HTTP/1.1", "host: gateway", f"x-request-id: {request_id}", framing]
    return "\r\n".join(lines).encode() + b"\r\nstripe-signature: " + signature + b"\r\n\r\n"


async def chunked(request_id: str) -> AsyncGenerator[bytes, None]:
    """A good webhook in chunks of seven bytes, without a length."""
    body = event()
    yield head(request_id, sign(CURRENT, body, now()), "transfer-encoding: chunked")
    for start in range(0, len(body), 7):
        piece = body[start : start + 7]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


async def without_a_length(request_id: str) -> AsyncGenerator[bytes, None]:
    """Neither a length nor chunks: there is no body then."""
    body = event()
    yield head(request_id, sign(CURRENT, body, now())) + body


async def announced(request_id: str) -> AsyncGenerator[bytes, None]:
    """A length over the limit, and not a byte of it."""
    yield head(request_id, b"t=1,v1=0", f"content-length: {BODY_BYTES_MAX + 1}")


async def endless(request_id: str) -> AsyncGenerator[bytes, None]:
    """Chunks without end."""
    yield head(request_id, b"t=1,v1=0", "transfer-encoding: chunked")
    for _ in range(ENDLESS_CHUNKS):
        yield b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    raise AssertionError("the whole body was read")


async def trickling(request_id: str) -> AsyncGenerator[bytes, None]:
    """A byte a second, so that the connection never falls silent."""
    body = event()
    yield head(request_id, sign(CURRENT, body, now()), f"content-length: {len(body)}")
    for place in range(len(body)):
        yield body[place : place + 1]
        await asyncio.sleep(1)


async def stalling(request_id: str) -> AsyncGenerator[bytes, None]:
    """Half a body, and nothing more."""
    body = event()
    yield head(request_id, sign(CURRENT, body, now()), f"content-length: {len(body)}")
    yield body[: len(body) // 2]


WIRES = [
    Wire(14, "chunked", chunked, 200, "stored", 1, 1),
    Wire(
        14, "without_a_length", without_a_length, 400, "signature_invalid", 0, 0, "webhook_refused"
    ),
    Wire(15, "too_large_by_its_length", announced, 413, "body_too_large"),
    Wire(15, "too_large_in_chunks", endless, 413, "body_too_large"),
    Wire(16, "trickling", trickling, 408, "request_timeout"),
    Wire(16, "stalling", stalling, 408, "request_timeout"),
]
