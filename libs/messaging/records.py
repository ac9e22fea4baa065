"""A record as it lies in Kafka, and reading an event out of it, totally.

Everything here accepts any bytes: what cannot be read becomes `UndecodableError` with a reason,
never another exception.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiokafka import TopicPartition
from pydantic import ValidationError

from libs.clock import from_unix
from libs.contracts.envelope import MAX_EVENT_BYTES, Envelope, Fact
from libs.contracts.topics import EVENT_TYPES
from libs.messaging.kafka_headers import deliver_as

TYPE_HEADER = "type"
EVENT_MODELS: dict[str, type[Envelope[Any]]] = {
    name: Envelope[fact]  # type: ignore[valid-type]
    for name, fact in EVENT_TYPES.items()
}


class UndecodableError(ValueError):
    """The bytes are no event of this topic; `reason` is a stable code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def unraised(self) -> "UndecodableError":
        """The same, to be kept: what was raised holds on to all that was at hand where it was."""
        return UndecodableError(self.reason, str(self))


class KafkaRecord(Protocol):
    """A record of a batch as Kafka's client reads it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Record(msgspec.Struct, frozen=True):
    """One record, bytes untouched; made in C, since topics of usage have millions.

    Nothing that is prepared may lead back here: the collector does not see every record.

    Attributes:
        prepared: what the topic's reader made of it ahead of its turn; None where none did.
    """

    topic: str
    partition: int
    offset: int
    at: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    prepared: Any = None

    def prepare(self, read: "Reader") -> None:
        """Keep what a reader makes of this record before its turn."""
        msgspec.structs.force_setattr(self, "prepared", read(self))

    @property
    def key_text(self) -> str:
        """The key as text, whatever its bytes are."""
        return (self.key or b"").decode("utf-8", "backslashreplace")

    @property
    def digest(self) -> bytes:
        """SHA-256 of key and value: how the fence recognises the record."""
        digest = hashlib.sha256()
        for part in (self.key, self.value):
            digest.update(b"\x00" if part is None else b"\x01" + len(part).to_bytes(8, "big"))
            digest.update(part or b"")
        return digest.digest()

    def header(self, name: str) -> str | None:
        """A header's text, or None when it is absent or not UTF-8."""
        for key, value in self.headers:
            if key == name and value is not None:
                try:
                    return value.decode()
                except UnicodeDecodeError:
                    return None
        return None


Reader = Callable[[Record], Any]
"""Reads a record ahead of its transaction: any bytes, no exception, and never the record itself. What
rests on more than the record's bytes has to be held against what is true in the transaction."""

Weigh = Callable[[Record], int]
"""How much there is to write on account of a record that was read ahead, in rows."""

WEIGHT_MAX = 20_000
"""Of one transaction: written within a second or two, and in memory within some tens of MiB."""

SECONDS_REMEMBERED = 256
KEYS_REMEMBERED = 1_024
TENANT_KEY_BYTES = 36
"""A UUID in the words of RFC 9562, section 4."""


@lru_cache(maxsize=SECONDS_REMEMBERED)
def _second(unix_seconds: int) -> datetime:
    return from_unix(unix_seconds)


def _of_kafka(place: TopicPartition, raw: KafkaRecord) -> Record:
    return Record(
        place.topic,
        place.partition,
        raw.offset,
        _second(raw.timestamp // 1000 if raw.timestamp >= 0 else 0),
        raw.key,
        raw.value,
        tuple(raw.headers or ()),
    )


# Whoever reads records of Kafka's comes here.
deliver_as(_of_kafka)


def in_parts(records: Sequence[Record], weigh: Weigh | None) -> Iterator[Sequence[Record]]:
    """Records in their order, as many together as one transaction should write.

    So those of others wait for a part of a tenant's work, and never for all that a batch may be.
    """
    weights = [] if weigh is None else [weigh(record) for record in records]
    if sum(weights) <= WEIGHT_MAX:
        yield records
        return
    begin = weight = 0
    for place, mine in enumerate(weights):
        if weight + mine > WEIGHT_MAX and place > begin:
            yield records[begin:place]
            begin, weight = place, 0
        weight += mine
    yield records[begin:]


def tenant_of(record: Record) -> UUID:
    """The tenant in the record's key.

    Raises:
        UndecodableError: the key is not a lower-case UUID.
    """
    return tenant_in(record.key)


def tenant_in(key: bytes | None) -> UUID:
    """The tenant that a key names.

    Raises:
        UndecodableError: it is not a lower-case UUID.
    """
    # Keys that are none are not remembered, whatever their size.
    tenant_id = _tenant(key) if key is not None and len(key) == TENANT_KEY_BYTES else None
    if tenant_id is None:
        raise UndecodableError("bad_key", "the record's key is not a tenant id")
    return tenant_id


@lru_cache(maxsize=KEYS_REMEMBERED)
def _tenant(key: bytes) -> UUID | None:
    text = key.decode("utf-8", "backslashreplace")
    try:
        tenant_id = UUID(text)
    except ValueError:
        return None
    return tenant_id if str(tenant_id) == text else None


def decode(record: Record) -> Envelope[Fact] | None:
    """The event in a record; None for a type this version does not know (additive contracts).

    Raises:
        UndecodableError: no value, too large, wrong key, or bytes that are no such event.
    """
    tenant_id = tenant_of(record)
    if record.value is None:
        raise UndecodableError("no_value", "the record has no value")
    if len(record.value) > 2 * MAX_EVENT_BYTES:
        raise UndecodableError("too_large", "the record is larger than any event may be")
    kind = record.header(TYPE_HEADER)
    if kind is None:
        raise UndecodableError("no_type", "the record has no readable type header")
    model = EVENT_MODELS.get(kind)
    if model is None:
        return None
    try:
        event = model.model_validate_json(record.value)
    except (ValidationError, RecursionError) as error:
        detail = f"not a {kind}: {type(error).__name__}"
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            detail = f"not a {kind}: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}"
        raise UndecodableError("not_an_event", detail[:500]) from None
    if event.tenant_id != tenant_id:
        raise UndecodableError("key_mismatch", "the event names another tenant than its key")
    if event.type != kind:
        raise UndecodableError("type_mismatch", "the event names another type than its header")
    return event
