"""Corrections of usage: an event is voided, or amended, which is a void and another event.

A correction is published like any usage and takes effect where usage is counted. Who made it and why
is kept and audited before it is published.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from uuid import UUID

from libs.clock import format_time
from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from libs.messaging.records import Record
from services.metering import exact_json, reserved_events, usage_record
from services.metering import store_corrections as store
from services.metering.event_ids import entered_before, hash_of_id
from services.metering.ingest import Arrival, RejectedError, read_event
from services.metering.store_corrections import Standing
from services.metering.usage_log import TOPIC
from services.metering.verdicts import Status
from services.metering.voiding import SOURCE, VOIDED, parts_kept

Kind = Literal["void", "amend"]


@dataclass(frozen=True)
class Name:
    """What makes an event one of its kind: within tenant and mode no other has both."""

    source: str
    id: str

    @property
    def hash(self) -> bytes:
        """The id by which the event counts once."""
        return hash_of_id(self.source, self.id)


@dataclass(frozen=True)
class Correction:
    """One event to be voided; with what is to stand in its place where that was sent.

    Attributes:
        replacement: as sent; None where the event is only voided.
    """

    name: Name
    replacement: dict[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of one correction.

    Attributes:
        code: why it was rejected; `not_counted_yet` on an accepted one whose event has not come or
            is not counted: it will not count.
    """

    name: Name
    status: Status
    code: str | None = None


@dataclass(frozen=True)
class Replacement:
    """An event that is to stand in for another: as it will be published, and what tells it apart."""

    name: Name
    value: bytes
    id_hash: bytes
    payload_hash: bytes


@dataclass
class Judged:
    """The verdicts in input order, and the records that make them true."""

    verdicts: list[Verdict] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    accepted: int = 0


async def judge(
    tx: Tx, correction_id: UUID, corrections: Sequence[Correction], arrival: Arrival
) -> Judged:
    """Decide about the corrections of one request, for the tenant in scope."""
    replacements = [_replacement(each, arrival) for each in corrections]
    names = [each.name for each in corrections]
    names += [each.name for each in replacements if isinstance(each, Replacement)]
    standing = await _standing_of(tx, names)
    judged = Judged()
    voided: set[bytes] = set()
    placed: set[bytes] = set()
    for each, replacement in zip(corrections, replacements, strict=True):
        name = each.name.hash
        if name in voided:
            judged.verdicts.append(Verdict(each.name, "duplicate"))
            continue
        refusal = _refusal(each, replacement, standing, voided | placed)
        if name in placed or refusal is not None:
            judged.verdicts.append(Verdict(each.name, "rejected", refusal or "id_taken"))
            continue
        status, code = _status(standing.get(name), replacement, standing)
        judged.verdicts.append(Verdict(each.name, status, code))
        judged.accepted += status == "accepted"
        # A duplicate is published again: what it repeats may never have reached the topic.
        voided.add(name)
        judged.values.append(_void_of(each.name, correction_id, arrival))
        if isinstance(replacement, Replacement):
            placed.add(replacement.id_hash)
            judged.values.append(replacement.value)
    return judged


async def _standing_of(tx: Tx, names: Sequence[Name]) -> dict[bytes, Standing]:
    """By the hash of its name, where each event stands that is known.

    As where usage is counted: ids may stand under the hash of former versions, and an event can be
    taken back only where everything that it needs is kept.
    """
    tenant = tx.tenant_id.bytes
    former = await entered_before(
        tx, ((tenant + each.hash, (each.source, each.id)) for each in names)
    )
    stored = {each.hash: former.get(tenant + each.hash, each.hash) for each in names}
    found = await store.standing_of(tx, list(stored.values()))
    told = {tenant + stands: each.gained for stands, each in found.items() if not each.voided}
    kept = await parts_kept(tx, told)
    return {
        name: replace(found[stands], voidable=tenant + stands in kept)
        for name, stands in stored.items()
        if stands in found
    }


def _refusal(
    correction: Correction,
    replacement: Replacement | RejectedError | None,
    standing: Mapping[bytes, Standing],
    named: AbstractSet[bytes],
) -> str | None:
    """Why a correction cannot be made, as a stable code."""
    if correction.name.source == SOURCE:
        return "reserved_source"
    now = standing.get(correction.name.hash)
    if now is not None and not now.voided and not now.voidable:
        return "counted_without_record"
    if isinstance(replacement, RejectedError):
        return replacement.code
    if replacement is None:
        return None
    if replacement.id_hash == correction.name.hash or replacement.id_hash in named:
        return "id_taken"
    return _conflict(replacement, standing.get(replacement.id_hash))


def _conflict(replacement: Replacement, there: Standing | None) -> str | None:
    """Why an event would not count under its id."""
    if there is None:
        return None
    if there.voided:
        return "id_voided"
    return "id_conflict" if there.payload_hash != replacement.payload_hash else None


def _status(
    now: Standing | None,
    replacement: Replacement | RejectedError | None,
    standing: Mapping[bytes, Standing],
) -> tuple[Status, str | None]:
    """Whether a correction that can be made was made before."""
    if now is None:
        return "accepted", "not_counted_yet"
    stands = not isinstance(replacement, Replacement) or replacement.id_hash in standing
    return ("duplicate" if now.voided and stands else "accepted"), None


def _replacement(correction: Correction, arrival: Arrival) -> Replacement | RejectedError | None:
    """The event that is to stand in, judged as any that comes in."""
    if correction.replacement is None:
        return None
    if correction.replacement.get("source") == reserved_events.SOURCE:
        return RejectedError("reserved_source")
    if correction.replacement.get("tenantid") not in (None, str(arrival.tenant_id)):
        return RejectedError("wrong_tenant")
    try:
        value = read_event(correction.replacement, arrival).value
    except RejectedError as rejected:
        return rejected
    key = str(arrival.tenant_id).encode()
    found = usage_record.read(Record(TOPIC, 0, 0, arrival.received_at, key, value))
    name = Name(found.event.source, found.event.id)
    return Replacement(name, value, found.id_hash, found.payload_hash)


def _void_of(name: Name, correction_id: UUID, arrival: Arrival) -> bytes:
    """The record that voids an event; of the same name it is the same void, whenever it is made."""
    at = format_time(arrival.business_time)
    document = {
        "specversion": "1.0",
        "id": name.hash.hex(),
        "source": SOURCE,
        "type": VOIDED,
        "time": at,
        "mode": arrival.mode,
        "tenantid": str(arrival.tenant_id),
        "receivedat": format_time(arrival.received_at),
        "clockoffset": arrival.clock_offset_seconds,
        "datacontenttype": "application/json",
        "data": {
            "source": name.source,
            "id": name.id,
            "correction": public_id("correction", correction_id),
        },
    }
    return exact_json.dumps(document)


async def record(
    tx: Tx,
    correction_id: UUID,
    kind: Kind,
    judged: Judged,
    reason: str,
    actor: str,
    arrival: Arrival,
) -> None:
    """Keep who corrects how many events and why, and tell the audit log."""
    at = arrival.received_at
    await store.add_correction(tx, correction_id, kind, reason, actor, judged.accepted, at)
    fact = ConfigurationChanged(
        action="usage.voided" if kind == "void" else "usage.amended",
        actor=actor,
        object_id=public_id("correction", correction_id),
        after={"events": judged.accepted, "reason": reason},
    )
    emit(tx, fact, effective_at=at)
