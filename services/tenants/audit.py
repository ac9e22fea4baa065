"""The audit log: one chain per tenant, each entry bound to the one before by its hash.

`libs.crypto.audit_chain` says how the chain is made and checked. The head of each chain is signed
now and then and told on `audit.events`, so that an end cut off, or a chain made anew, shows.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from libs.contracts.audit import AuditHeadAnchored, ConfigurationChanged, SecurityEventRaised
from libs.contracts.envelope import Envelope
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.crypto.audit_chain import GENESIS, Break, ChainCheck, Head, entry_hash
from libs.crypto.tokens import key_id_of, public_key_of
from libs.db.pool import Database, Row, Tx
from libs.messaging.outbox import emit
from services.tenants import store_audit as store
from services.tenants import store_keys

READ_PAGE = 1_000
EXPORTED_ENTRIES_MAX = 100_000
VERIFIED_ENTRIES_MAX = 50_000
ANCHORED_TENANTS_MAX = 100


async def record(
    tx: Tx, event: Envelope[SecurityEventRaised] | Envelope[ConfigurationChanged]
) -> None:
    """Add an event to its tenant's chain, once."""
    data = event.data
    kind: Literal["security", "configuration"]
    if isinstance(data, SecurityEventRaised):
        kind, action, object_id = "security", data.kind, None
    else:
        kind, action, object_id = "configuration", data.action, data.object_id
    await store.lock_chain(tx)
    if await store.has_entry(tx, event.id):
        return
    # From what was recorded, not from what is there: an end that was cut off stays a gap.
    head = await store.lock_head(tx)
    seq = 1 if head is None else head["seq"] + 1
    previous_hash = GENESIS if head is None else head["hash"]
    content = {"seq": seq, **event.model_dump(mode="json", exclude={"stream_seq"})}
    hashed = entry_hash(previous_hash, content)
    await store.append(
        tx,
        seq=seq,
        event_id=event.id,
        occurred_at=event.occurred_at,
        kind=kind,
        action=action,
        actor=data.actor,
        object_id=object_id,
        content=content,
        previous_hash=previous_hash,
        entry_hash=hashed,
    )
    await store.raise_head(tx, seq, hashed)


async def search(tx: Tx, wanted: store.Wanted, before: int | None, limit: int) -> list[Row]:
    """Entries of the tenant in scope, the newest first."""
    return await store.list_entries(tx, wanted, before, limit)


@dataclass(frozen=True)
class Extent:
    """Which entries an export holds.

    Attributes:
        next_after: number to go on after, where the export ends before the log does.
    """

    after: int
    up_to: int
    next_after: int | None


async def extent_of_export(tx: Tx, wanted: store.Wanted, after: int) -> Extent:
    """At most `EXPORTED_ENTRIES_MAX` numbers of the log as it is now."""
    last = await store.last_entry(tx)
    end = 0 if last is None else last["seq"]
    up_to = min(end, after + EXPORTED_ENTRIES_MAX)
    left = await store.list_from(tx, wanted, up_to, end, 1)
    return Extent(after, up_to, up_to if left else None)


async def exported(
    database: Database, tenant_id: UUID, wanted: store.Wanted, extent: Extent
) -> AsyncGenerator[list[Row], None]:
    """The entries of an export, oldest first, page by page: no connection is held in between."""
    after = extent.after
    while True:
        async with database.tenant(tenant_id, None) as tx:
            rows = await store.list_from(tx, wanted, after, extent.up_to, READ_PAGE)
        if rows:
            yield rows
            after = rows[-1]["seq"]
        if len(rows) < READ_PAGE:
            return


@dataclass(frozen=True)
class Verification:
    """What checking a stretch of a chain found.

    Attributes:
        seq: the last entry that holds.
        proven_seq: the last entry up to which a signed head proves the chain.
        is_complete: the end of the chain was reached.
        forged_heads: signed heads that no key of the platform made; they prove nothing.
    """

    seq: int
    proven_seq: int
    broken: Break | None
    is_complete: bool
    forged_heads: int


async def verify(database: Database, tenant_id: UUID, *, after: int = 0) -> Verification:
    """Check at most `VERIFIED_ENTRIES_MAX` entries of a tenant's chain against its signed heads.

    Args:
        after: go on after this entry, which an earlier call found to hold.
    """
    async with database.tenant(PLATFORM_TENANT_ID, None) as tx:
        public_keys = {
            key["key_id"]: key["public_key"] for key in await store_keys.signing_keys(tx)
        }
    async with database.tenant(tenant_id, None) as tx:
        anchors = await store.read_anchors(tx)
        before = await store.read_chain(tx, after - 1, 1) if after else []
    heads, forged = heads_of(anchors, public_keys)
    if after and (not before or before[0]["seq"] != after):
        return Verification(0, 0, Break(after, "the entry is not there"), True, forged)
    check = ChainCheck(
        tenant_id,
        {seq: hashes for seq, hashes in heads.items() if seq > after},
        seq=after,
        hash=bytes(before[0]["hash"]) if before else GENESIS,
        proven_seq=max((seq for seq in heads if seq <= after), default=0),
    )
    is_complete = False
    while not is_complete and check.seq - after < VERIFIED_ENTRIES_MAX:
        async with database.tenant(tenant_id, None) as tx:
            rows = await store.read_chain(tx, check.seq, READ_PAGE)
        is_complete = not check.follow(rows) or len(rows) < READ_PAGE
    if is_complete:
        check.finish()
    return Verification(check.seq, check.proven_seq, check.broken, is_complete, forged)


def heads_of(
    anchors: list[Row], public_keys: Mapping[str, str]
) -> tuple[dict[int, frozenset[bytes]], int]:
    """The hashes that signed heads give for a number, and how many heads nobody of us signed."""
    heads: dict[int, frozenset[bytes]] = {}
    forged = 0
    for row in anchors:
        head = Head(row["tenant_id"], row["seq"], bytes(row["hash"]), row["anchored_at"])
        if head.is_signed(bytes(row["signature"]), row["key_id"], public_keys):
            heads[head.seq] = heads.get(head.seq, frozenset()) | {head.hash}
        else:
            forged += 1
    return heads, forged


async def tenants_to_anchor(tx: Tx, now: datetime, every: timedelta, entries: int) -> list[UUID]:
    """Tenants whose head is due to be signed; as the maintenance role."""
    return await store.unsigned_heads(
        tx, anchored_before=now - every, entries=entries, limit=ANCHORED_TENANTS_MAX
    )


async def anchor(tx: Tx, private_key: bytes, now: datetime) -> None:
    """Sign the head of the tenant in scope and tell it; nothing where it was signed already."""
    row = await store.lock_head(tx)
    if row is None or row["seq"] == row["anchored_seq"]:
        return
    head = Head(tx.tenant_id, row["seq"], bytes(row["hash"]), now)
    fact = AuditHeadAnchored(
        seq=head.seq,
        head_hash=head.hash.hex(),
        key_id=key_id_of(public_key_of(private_key)),
        signature=head.sign(private_key).hex(),
        anchored_at=now,
    )
    await store.note_anchored(tx, head.seq, now)
    emit(tx, fact, effective_at=now)


async def keep_anchor(tx: Tx, event_id: UUID, fact: AuditHeadAnchored) -> None:
    """Keep a signed head as it came from the topic."""
    await store.keep_anchor(
        tx,
        event_id=event_id,
        seq=fact.seq,
        head_hash=bytes.fromhex(fact.head_hash),
        key_id=fact.key_id,
        signature=bytes.fromhex(fact.signature),
        anchored_at=fact.anchored_at,
    )
