"""Who may put usage straight on `usage.events`, and how a record proves whose it is.

A producer has a pass, which names a tenant or all of them, a mode and its end; and a secret that
follows from the pass and a key of the platform's. So whoever reads a record verifies it alone, now and
in any replay. Each record carries the pass and a code over its key and value in a header. What our own
ingest publishes carries a seal instead: one for all events of a request, so it costs next to nothing.
"""

import hmac
import re
import struct
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from uuid import UUID

from libs.clock import from_unix
from libs.contracts.envelope import Mode
from libs.messaging.records import Record

PRODUCER_HEADER = "sluice-producer"
SEAL_HEADER = "sluice-ingest"
ALL_TENANTS = "all"
REMEMBERED = 10_000
"""Seals and passes that were read lately: thousands of records share them."""

SEAL_AGE_MAX = timedelta(hours=1)
SEAL_AHEAD_MAX = timedelta(minutes=5)
"""How far a record may come in after and before the time that its seal names."""

Refusal = Literal[
    "no_proof",
    "bad_proof",
    "pass_expired",
    "pass_revoked",
    "not_its_tenant",
    "not_its_mode",
    "backfill",
    "reserved",
    "clock_offset",
]

_SEAL = struct.Struct(">Q16s")
_HEADER = re.compile(
    r"(?P<text>slp1\.(?P<mode>test|live)\.(?P<whose>[a-f0-9-]{36}|all)\.(?P<id>[a-f0-9-]{36})"
    r"\.(?P<ends>\d{1,10}))\.(?P<code>[a-f0-9]{64})"
)


@dataclass(frozen=True)
class Pass:
    """What a producer has a right to.

    Attributes:
        tenant_id: None: every tenant's usage.
    """

    producer_id: UUID
    tenant_id: UUID | None
    mode: Mode
    expires_at: datetime

    @property
    def text(self) -> str:
        """The pass as it is handed out and stands in a header; no secret."""
        whose = ALL_TENANTS if self.tenant_id is None else str(self.tenant_id)
        ends = int(self.expires_at.timestamp())
        return f"slp1.{self.mode}.{whose}.{self.producer_id}.{ends}"


class Verdict(NamedTuple):
    """What a record proves.

    Attributes:
        refusal: why it must not be counted.
        shown: the pass that its producer holds; None where it shows none, or a false one.
    """

    refusal: Refusal | None
    shown: Pass | None = None


OUR_OWN = Verdict(None)


@dataclass(frozen=True)
class ProducerKeys:
    """The platform's key for passes and seals, which follows from the pepper."""

    _root: bytes = field(repr=False)

    @classmethod
    def under(cls, pepper: bytes) -> "ProducerKeys":
        """The key under the pepper that every service is given."""
        return cls(hmac.digest(pepper, b"sluice usage producers 1", "sha256"))

    def secret_of(self, shown: str) -> str:
        """The secret that goes with the text of a pass: told to its producer, and never kept."""
        return _secret_of(self._root, shown)

    def seal(self, tenant_id: UUID, at: datetime) -> bytes:
        """What the ingest shows for a tenant's events that it publishes now."""
        return _seal_of(self._root, str(tenant_id).encode(), int(at.timestamp()))

    def check(self, record: Record) -> Verdict:
        """Whether a record is our ingest's, or of a producer with a right to its tenant.

        Its mode, and whether the pass was revoked, is not looked at here.
        """
        for name, value in record.headers:
            if name == SEAL_HEADER:
                return self._check_seal(record, value)
            if name == PRODUCER_HEADER:
                return self._check_proof(record, value)
        return Verdict("no_proof")

    def _check_seal(self, record: Record, seal: bytes | None) -> Verdict:
        span = _span_of(self._root, record.key, seal)
        if span is None:
            return Verdict("bad_proof")
        return OUR_OWN if span[0] <= record.at <= span[1] else Verdict("pass_expired")

    def _check_proof(self, record: Record, header: bytes | None) -> Verdict:
        match = _HEADER.fullmatch((header or b"").decode("ascii", "replace"))
        if match is None or record.value is None:
            return Verdict("bad_proof")
        code = code_of(_secret_of(self._root, match["text"]), record.key or b"", record.value)
        if not hmac.compare_digest(code, match["code"]):
            return Verdict("bad_proof")
        # From here on it is a pass that was handed out, with nothing changed.
        tenant_id = None if match["whose"] == ALL_TENANTS else UUID(match["whose"])
        mode: Mode = "live" if match["mode"] == "live" else "test"
        shown = Pass(UUID(match["id"]), tenant_id, mode, from_unix(int(match["ends"])))
        if record.at >= shown.expires_at:
            return Verdict("pass_expired", shown)
        if tenant_id is not None and record.key != str(tenant_id).encode():
            return Verdict("not_its_tenant", shown)
        return Verdict(None, shown)


def code_of(secret: str, key: bytes, value: bytes) -> str:
    """The code that a producer puts behind its pass: HMAC-SHA-256 of key, newline and value, in hex."""
    return hmac.digest(secret.encode(), key + b"\n" + value, "sha256").hex()


@lru_cache(maxsize=REMEMBERED)
def _secret_of(root: bytes, text: str) -> str:
    return urlsafe_b64encode(hmac.digest(root, b"pass " + text.encode(), "sha256")).decode()


def _seal_of(root: bytes, key: bytes, seconds: int) -> bytes:
    said = b"seal " + key + seconds.to_bytes(8, "big")
    return _SEAL.pack(seconds, hmac.digest(root, said, "sha256")[:16])


@lru_cache(maxsize=REMEMBERED)
def _span_of(
    root: bytes, key: bytes | None, seal: bytes | None
) -> tuple[datetime, datetime] | None:
    """When a record with this seal may come in; None where the seal is not ours for this key."""
    if key is None or seal is None or len(seal) != _SEAL.size:
        return None
    seconds, _ = _SEAL.unpack(seal)
    if not hmac.compare_digest(seal, _seal_of(root, key, seconds)):
        return None
    at = from_unix(seconds)
    return at - SEAL_AHEAD_MAX, at + SEAL_AGE_MAX
