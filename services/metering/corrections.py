"""Corrections of usage: an event is voided, or amended, which is a void and another event.

A correction is published like any usage and takes effect where usage is counted. Who made it and why
is kept and audited before it is published.
"""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple
from uuid import UUID

from libs.clock import format_time
from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from libs.messaging.records import Record
from services.metering import exact_json, reserved_events, usage_record
from services.metering import store_corrections as store
from services.metering.event_ids import entered_before, entered_unmarked, hash_of_id
from services.metering.ingest import Arrival, RejectedError, read_event
from services.metering.reporters import REPORTED_BY_PLATFORM
from services.metering.store_corrections import Standing
from services.metering.usage_log import TOPIC
from services.metering.verdicts import Status
from services.metering.voiding import SOURCE, TENANT, VOIDED, parts_kept

Kind = Literal["void", "amend"]


@dataclass(frozen=True)
class Name:
    """What makes an event one of its kind: within tenant and mode no other has both."""

    source: str
    id: str


class Whose(NamedTuple):
    """The event of a name that the platform reported, or the one that the tenant did."""

    name: Name
    by_platform: bool

    @property
    def hash(self) -> bytes:
        """The id by which the event counts once."""
        return hash_of_id(self.name.source, self.name.id, by_platform=self.by_platform)


@dataclass(frozen=True)
class Forgotten:
    """What is known of events whose ids are not there.

    Attributes:
        hashes: of those that were counted so long ago that their ids are forgotten.
        told: whether all such are among them.
    """

    hashes: AbstractSet[bytes] = frozenset()
    told: bool = True


NOTHING_FORGOTTEN = Forgotten()


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
    payload_hash: bytes


@dataclass
class Judged:
    """The verdicts in input order, and the records that make them true."""

    verdicts: list[Verdict] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    accepted: int = 0

    @property
    def is_of_platform(self) -> bool:
        """Whether a tenant named what the platform reported."""
        return any(verdict.code == REPORTED_BY_PLATFORM for verdict in self.verdicts)


async def judge(
    tx: Tx,
    correction_id: UUID,
    corrections: Sequence[Correction],
    arrival: Arrival,
    actor: str,
    forgotten: Forgotten = NOTHING_FORGOTTEN,
) -> Judged:
    """Decide about the corrections of one request, for the tenant in scope."""
    replacements = [_replacement(each, arrival) for each in corrections]
    names = [each.name for each in corrections]
    names += [each.name for each in replacements if isinstance(each, Replacement)]
    standing = await _standing_of(tx, names, arrival)
    judged = Judged()
    voided: set[Name] = set()
    placed: set[Name] = set()
    for each, replacement in zip(corrections, replacements, strict=True):
        name = each.name
        if name in voided:
            judged.verdicts.append(Verdict(name, "duplicate"))
            continue
        meant = _meant(name, standing, arrival)
        there = _there(replacement, standing, arrival)
        refusal = _irreversible(meant, standing, forgotten) or _refusal(
            each, replacement, there, voided | placed
        )
        if name in placed or refusal is not None:
            judged.verdicts.append(Verdict(name, "rejected", refusal or "id_taken"))
            continue
        stands = there is not None or not isinstance(replacement, Replacement)
        status, code = _status(standing.get(meant[0]), stands)
        judged.verdicts.append(Verdict(name, status, code))
        judged.accepted += status == "accepted"
        # A duplicate is published again: what it repeats may never have reached the topic.
        voided.add(name)
        judged.values += [_void_of(whose, correction_id, arrival, actor) for whose in meant]
        if isinstance(replacement, Replacement):
            placed.add(replacement.name)
            judged.values.append(replacement.value)
    return judged


async def unknown(tx: Tx, corrections: Sequence[Correction], arrival: Arrival) -> list[Name]:
    """Those names under which no event is known, neither of the platform's nor of the tenant's."""
    names = [each.name for each in corrections]
    known = {whose.name for whose in await _standing_of(tx, names, arrival)}
    return [name for name in dict.fromkeys(names) if name not in known]


def _there(
    replacement: Replacement | RejectedError | None,
    standing: Mapping[Whose, Standing],
    arrival: Arrival,
) -> Standing | None:
    """Where the event stands that has a replacement's name already."""
    if not isinstance(replacement, Replacement):
        return None
    return standing.get(Whose(replacement.name, arrival.by_platform))


def _meant(name: Name, standing: Mapping[Whose, Standing], arrival: Arrival) -> tuple[Whose, ...]:
    """Which events of a name are to be voided.

    A tenant means its own. The platform means its own, or else the tenant's; and where neither came, both:
    whichever comes is not to count.
    """
    own, tenants = Whose(name, True), Whose(name, False)
    if not arrival.by_platform:
        return (tenants,)
    came = [each for each in (own, tenants) if each in standing and standing[each].came]
    return (came[0],) if came else (own, tenants)


def _irreversible(
    meant: Sequence[Whose], standing: Mapping[Whose, Standing], forgotten: Forgotten
) -> str | None:
    """Why nobody, or not the tenant, can take back what is meant, as a stable code."""
    if meant[0].name.source == SOURCE:
        return "reserved_source"
    found = [standing[each] for each in meant if each in standing]
    if any(not each.voided and not each.voidable for each in found):
        return "counted_without_record"
    if found:
        return None
    if any(each.hash in forgotten.hashes for each in meant):
        return "too_old_to_correct"
    platforms = Whose(meant[0].name, True)
    there = standing.get(platforms)
    if (there is not None and there.came) or platforms.hash in forgotten.hashes:
        return REPORTED_BY_PLATFORM
    return None if forgotten.told or there is not None else "may_be_too_old"


async def _standing_of(tx: Tx, names: Collection[Name], arrival: Arrival) -> dict[Whose, Standing]:
    """Where each event of these names stands that is known.

    As where usage is counted: ids may stand under the hash of former versions, and an event can be
    taken back only where everything that it needs is kept.
    """
    tenant = tx.tenant_id.bytes
    hashes = {
        whose: whose.hash for name in names for whose in (Whose(name, False), Whose(name, True))
    }
    day = arrival.received_at.date()
    named = [
        (whose, (tenant + id_hash, (whose.name.source, whose.name.id)))
        for whose, id_hash in hashes.items()
    ]
    former = {
        **await entered_unmarked(tx, [(*each, day) for whose, each in named if whose.by_platform]),
        **await entered_before(tx, (each for _, each in named)),
    }
    stored = {whose: former.get(tenant + id_hash, id_hash) for whose, id_hash in hashes.items()}
    found = await store.standing_of(tx, list(stored.values()))
    told = {tenant + stands: each.gained for stands, each in found.items() if not each.voided}
    kept = await parts_kept(tx, told)
    return {
        whose: replace(found[stands], voidable=tenant + stands in kept)
        for whose, stands in stored.items()
        if stands in found
    }


def _refusal(
    correction: Correction,
    replacement: Replacement | RejectedError | None,
    there: Standing | None,
    named: AbstractSet[Name],
) -> str | None:
    """Why a correction cannot be made, as a stable code.

    Args:
        there: where the event stands that has the replacement's name already.
        named: in the same request, before.
    """
    if isinstance(replacement, RejectedError):
        return replacement.code
    if replacement is None:
        return None
    if replacement.name == correction.name or replacement.name in named:
        return "id_taken"
    return _conflict(replacement, there)


def _conflict(replacement: Replacement, there: Standing | None) -> str | None:
    """Why an event would not count under its id."""
    if there is None:
        return None
    if there.voided:
        return "id_voided"
    return "id_conflict" if there.payload_hash != replacement.payload_hash else None


def _status(now: Standing | None, stands: bool) -> tuple[Status, str | None]:
    """Whether a correction that can be made was made before.

    Args:
        stands: what is to stand in for the event is known already.
    """
    if now is None:
        return "accepted", "not_counted_yet"
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
    return Replacement(name, value, found.payload_hash)


def _void_of(whose: Whose, correction_id: UUID, arrival: Arrival, actor: str) -> bytes:
    """The record that voids an event; of the same event it is the same void, whenever it is made."""
    at = format_time(arrival.business_time)
    data = {
        "source": whose.name.source,
        "id": whose.name.id,
        "correction": public_id("correction", correction_id),
        "actor": actor,
    }
    document: dict[str, Any] = {
        "specversion": "1.0",
        "id": whose.hash.hex(),
        "source": SOURCE,
        "type": VOIDED,
        "time": at,
        "mode": arrival.mode,
        "tenantid": str(arrival.tenant_id),
        "receivedat": format_time(arrival.received_at),
        "clockoffset": arrival.clock_offset_seconds,
        "datacontenttype": "application/json",
        "data": data,
    }
    if arrival.by_platform:
        document["reportedbytheplatform"] = True
        if not whose.by_platform:
            data["reporter"] = TENANT
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
