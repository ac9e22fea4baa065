"""The audit log's chain of hashes, and the signed statements of how far it reached.

hash = SHA-256(previous hash || canonical JSON of the content), where the content is the event as it
came and the entry's number, and the first previous hash is 32 zero bytes. Changing, removing or
inserting an entry breaks every hash after it. Who can rewrite a whole chain, or cut its end off,
is found out by its heads: now and then number and hash of the last entry are signed and kept
elsewhere.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from libs.crypto.framing import canonical
from libs.crypto.tokens import key_id_of

GENESIS = bytes(32)
HASH_BYTES = 32
_HEAD_PURPOSE = b"sluice.audit-head.1"

KIND_OF_TYPE: Mapping[str, str] = {
    "SecurityEventRaised": "security",
    "ConfigurationChanged": "configuration",
}
"""The events that are entries of the log, and the kind of entry each makes."""


@dataclass(frozen=True)
class Head:
    """How far a tenant's chain reached at a time."""

    tenant_id: UUID
    seq: int
    hash: bytes
    at: datetime

    def _signed_bytes(self) -> bytes:
        numbers = self.seq.to_bytes(8, "big")
        return canonical(
            _HEAD_PURPOSE, self.tenant_id.bytes, numbers, self.hash, self.at.isoformat().encode()
        )

    def sign(self, private_key: bytes) -> bytes:
        """The Ed25519 signature of this head; bound to its purpose, so it can be nothing else's."""
        return Ed25519PrivateKey.from_private_bytes(private_key).sign(self._signed_bytes())

    def is_signed(self, signature: bytes, key_id: str, public_keys: Mapping[str, str]) -> bool:
        """Whether one of the platform's keys (by `key_id_of`) signed exactly this head."""
        public_key = public_keys.get(key_id)
        if public_key is None or key_id_of(public_key) != key_id:
            return False
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(f"{public_key}="))
            key.verify(signature, self._signed_bytes())
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Break:
    """Where a chain does not hold: the first entry that is wrong, and what is wrong with it."""

    seq: int
    reason: str


def entry_hash(previous_hash: bytes, content: Mapping[str, Any]) -> bytes:
    """The hash of an entry. Canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(previous_hash + text.encode()).digest()


def digest_of_event(event: Mapping[str, Any]) -> bytes:
    """A digest of an event on its topic, equal to that of the entry made from it.

    Absent and null are one, for fields are added in the course of time.
    """
    return entry_hash(b"", _without_nulls({**event, "seq": None, "stream_seq": None}))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


@dataclass
class ChainCheck:
    """Goes along one tenant's chain, entry by entry, and stops at the first break.

    Attributes:
        heads: hashes that signed heads give for a number.
        told: digests of the events on the topic, by their id; None does not compare with it.
        seq, hash: of the last entry that held.
    """

    tenant_id: UUID
    heads: Mapping[int, frozenset[bytes]] = field(default_factory=dict)
    told: Mapping[UUID, bytes] | None = None
    seq: int = 0
    hash: bytes = GENESIS
    broken: Break | None = None
    proven_seq: int = 0
    _seen: set[UUID] = field(default_factory=set)

    def follow(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Check the next entries, in the order of their numbers; whether all of them hold."""
        for row in rows:
            if self.broken is None:
                self.broken = self._fault(row)
            if self.broken is not None:
                return False
            self.seq, self.hash = row["seq"], bytes(row["hash"])
            if self.seq in self.heads:
                self.proven_seq = self.seq
            if self.told is not None:
                self._seen.add(row["event_id"])
        return self.broken is None

    def finish(self) -> Break | None:
        """After the last entry: nothing that was signed or told may be missing."""
        if self.broken is not None:
            return self.broken
        signed = max(self.heads, default=0)
        if signed > self.seq:
            self.broken = Break(
                self.seq + 1, f"entries up to {signed} were signed for and are not there"
            )
        elif self.told is not None and (missing := len(self.told.keys() - self._seen)):
            self.broken = Break(
                self.seq + 1, f"{missing} events of the topic audit.events have no entry"
            )
        return self.broken

    def _fault(self, row: Mapping[str, Any]) -> Break | None:
        expected = self.seq + 1
        if row["seq"] != expected:
            return Break(expected, "the entry is not there")
        reason = self._fault_of_entry(row)
        if reason is not None:
            return Break(expected, reason)
        signed = self.heads.get(expected)
        if signed is not None and signed != {bytes(row["hash"])}:
            return Break(
                self.proven_seq + 1,
                f"between entry {self.proven_seq + 1} and {expected} the chain was rewritten: "
                "its signed head is another",
            )
        return None

    def _fault_of_entry(self, row: Mapping[str, Any]) -> str | None:
        content = row["content"]
        if bytes(row["previous_hash"]) != self.hash:
            return "it does not follow the entry before it"
        if not isinstance(content, dict) or content.get("seq") != row["seq"]:
            return "its content is another entry's"
        if bytes(row["hash"]) != entry_hash(self.hash, content):
            return "its content does not fit its hash"
        if not _columns_fit(row, content, self.tenant_id):
            return "what is shown of it differs from its content"
        return self._fault_of_source(row["event_id"], content)

    def _fault_of_source(self, event_id: UUID, content: Mapping[str, Any]) -> str | None:
        told = None if self.told is None else self.told.get(event_id)
        if told == digest_of_event(content) or self.told is None:
            return None
        if told is None:
            return "no such event stands on the topic audit.events"
        return "the event on the topic audit.events is another"


def _columns_fit(row: Mapping[str, Any], content: Mapping[str, Any], tenant_id: UUID) -> bool:
    """Whether the columns that are searched and shown say what the hashed content says."""
    data = content.get("data")
    if not isinstance(data, dict):
        return False
    kind = KIND_OF_TYPE.get(str(content.get("type")))
    try:
        occurred_at = datetime.fromisoformat(str(content.get("occurred_at")))
    except ValueError:
        return False
    return (
        (row["tenant_id"], content.get("tenant_id")) == (tenant_id, str(tenant_id))
        and content.get("id") == str(row["event_id"])
        and row["occurred_at"] == occurred_at
        and row["kind"] == kind
        and row["action"] == data.get("kind" if kind == "security" else "action")
        and row["actor"] == data.get("actor")
        and row["object_id"] == data.get("object_id")
    )
