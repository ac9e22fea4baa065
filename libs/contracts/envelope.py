"""The envelope every event travels in.

Field names follow CloudEvents where it has one. An event is immutable and only ever grows:
unknown fields are ignored, a breaking change is a new type beside the old one.
"""

from datetime import datetime
from typing import Generic, Literal, TypeVar, cast
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from libs.clock import utc_now
from libs.ids import new_id

Mode = Literal["test", "live"]

MAX_EVENT_BYTES = 512 * 1024


class Fact(BaseModel):
    """The data of one event type; the class name is the type's name."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


D = TypeVar("D", bound=Fact)


class Envelope(BaseModel, Generic[D]):
    """One event: who it belongs to, what happened when, and why.

    Attributes:
        id: UUIDv7; the inbox of each consumer takes an id once.
        tenant_id: the owner; its lower-case text is the Kafka key.
        mode: `test` or `live`; None for an identity fact that holds in both.
        type: name of the data's class.
        occurred_at: when it was recorded (UTC).
        effective_at: business time at which it holds; handlers use this, never a clock.
        source: the producing service.
        causation_id: the event that led to this one.
        correlation_id: the first cause, shared by everything that followed from it.
        stream_seq: number within (tenant, topic, source), stamped by the relay before sending.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: UUID
    tenant_id: UUID
    mode: Mode | None
    type: str
    occurred_at: AwareDatetime
    effective_at: AwareDatetime
    source: str
    causation_id: UUID | None = None
    correlation_id: UUID
    stream_seq: int | None = None
    data: D


def wrap(
    data: D,
    *,
    tenant_id: UUID,
    mode: Mode | None,
    source: str,
    effective_at: datetime,
    causation_id: UUID | None = None,
    correlation_id: UUID | None = None,
) -> Envelope[D]:
    """A new envelope around `data`, with an id and the time of recording."""
    event_id = new_id()
    model = cast("type[Envelope[D]]", Envelope.__class_getitem__(type(data)))
    return model(
        id=event_id,
        tenant_id=tenant_id,
        mode=mode,
        type=type(data).__name__,
        occurred_at=utc_now(),
        effective_at=effective_at,
        source=source,
        causation_id=causation_id,
        correlation_id=correlation_id or event_id,
        data=data,
    )
