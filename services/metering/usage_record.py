"""Reading a record of `usage.events`: the event in it, and what tells it from all others.

Everything here follows from the record alone, so it may be done before the record's turn comes.
"""

from collections.abc import Mapping
from datetime import date, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import get_args
from uuid import UUID

import msgspec

from libs.clock import floor_to_minute, parse_time
from libs.contracts.envelope import MAX_EVENT_BYTES, Mode
from libs.messaging.records import Record, UndecodableError, tenant_in
from services.metering import exact_json, gained, voiding
from services.metering.event_ids import hash_of_id
from services.metering.reserved_events import SOURCE as RESERVATION
from services.metering.store_usage import TENANT_BYTES, EventKey
from services.metering.usage_event import Event, read_event
from services.metering.window import EPOCH, stamp_of, time_problem

FOR_EVER = date.max
"""The day on which an event of a backfill came in, as its id has it: it is never pruned."""

ORIGINS_REMEMBERED = 10_000
MINUTES_REMEMBERED = 4_096
CUSTOMERS_REMEMBERED = 10_000

MODES: tuple[Mode, ...] = get_args(Mode)

_CUSTOMER, _CUSTOMER_LENGTH = "cus_", 40


class Minute:
    """A whole minute; one and the same is shared by thousands of records.

    Attributes:
        head: how `gained` begins for events of this minute.
    """

    __slots__ = ("at", "head")

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.head = gained.head_of(at)


Place = tuple[int, Mode]
"""Whose events, by the tenant's id as a number (far quicker to look for than a UUID), in which mode."""


class Origin:
    """Whose record, and the day it came in; one and the same is shared by thousands of records.

    Attributes:
        tenant: the bytes of the tenant's id.
        places: by the mode of an event, whose it is.
    """

    __slots__ = ("day", "places", "tenant", "tenant_id")

    def __init__(self, tenant_id: UUID, day: date) -> None:
        self.tenant_id = tenant_id
        self.tenant = tenant_id.bytes
        self.places: Mapping[Mode, Place] = {mode: (tenant_id.int, mode) for mode in MODES}
        self.day = day


class Read(msgspec.Struct, frozen=True, gc=False):
    """What stands in a record.

    Attributes:
        place: whose it is.
        key: what makes the event count once; of a void, the event that it names.
        customer: as aggregates name it.
        minute: that of the event's time.
        is_special: whether it is a void, the platform's or a reservation's, as few events are.
    """

    event: Event
    origin: Origin
    place: Place
    key: EventKey
    payload_hash: bytes
    customer: str
    received_at: datetime
    minute: Minute
    is_special: bool = True

    @property
    def tenant_id(self) -> UUID:
        """Whose event it is."""
        return self.origin.tenant_id

    @property
    def id_hash(self) -> bytes:
        """The hash of source and id."""
        return self.key[TENANT_BYTES:]


def read(record: Record) -> Read:
    """The event in a record.

    Raises:
        UndecodableError: it is none, or of another tenant, or too old or from the future.
    """
    origin = _origin_of(record.key, record.at)
    value = record.value
    if value is None:
        raise UndecodableError("no_value", "the record has no value")
    if len(value) > MAX_EVENT_BYTES:
        raise UndecodableError("too_large", "the record is larger than any event may be")
    event = read_event(value)
    if event.tenantid is not None and event.tenantid.int != origin.tenant_id.int:
        raise UndecodableError("wrong_tenant", "the event names another tenant than its key")
    stamp, time = stamp_of(event.receivedat, event.clockoffset, record.at), event.time
    earliest = stamp.earliest
    if event.backfill is not None:
        origin, earliest = Origin(origin.tenant_id, FOR_EVER), EPOCH
    if not earliest <= time <= stamp.latest:
        problem = time_problem(time, stamp.business_time)
        raise UndecodableError(
            problem or "invalid_time", "the event's time is outside what is taken"
        )
    try:
        id_hash = hash_of_id(*voiding.named_by(event), by_platform=voiding.is_of_platform(event))
        # The time that the ingest set, where an event named none, is nothing that it said.
        was_set = time == stamp.business_time and event.receivedat is not None
        told = None if was_set else event.time_text
        said = (event.type, event.subject, event.userid, told, event.data)
        payload_hash = blake2b(exact_json.dumps(said), digest_size=8).digest()
    except UnicodeEncodeError:
        raise UndecodableError("invalid_text", "a text holds half a character") from None
    except (exact_json.InvalidNumberError, RecursionError) as error:
        raise UndecodableError("invalid_data", str(error)[:200]) from None
    return Read(
        event,
        origin,
        origin.places[event.mode],
        origin.tenant + id_hash,
        payload_hash,
        customer_of(event.subject),
        stamp.received_at,
        _minute_of(event.time_text[:16]),
        event.by_platform or event.type == voiding.VOIDED or event.source == RESERVATION,
    )


@lru_cache(maxsize=CUSTOMERS_REMEMBERED)
def customer_of(subject: str | None) -> str:
    """The customer in aggregates: a public id loses its prefix; empty is the tenant itself."""
    if subject is None:
        return ""
    if len(subject) == _CUSTOMER_LENGTH and subject.startswith(_CUSTOMER):
        return subject[len(_CUSTOMER) :].lower()
    return subject


@lru_cache(maxsize=ORIGINS_REMEMBERED)
def _origin_of(key: bytes | None, at: datetime) -> Origin:
    """Where a record comes from, remembered.

    Raises:
        UndecodableError: the key is not a lower-case UUID.
    """
    return Origin(tenant_in(key), at.date())


@lru_cache(maxsize=MINUTES_REMEMBERED)
def _minute_of(text: str) -> Minute:
    """The minute of a time as `format_time` writes it, by all that stands before the seconds."""
    return Minute(floor_to_minute(parse_time(f"{text}Z")))
