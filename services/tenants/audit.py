"""The audit log: one chain per tenant, each entry bound to the one before by its hash.

hash = SHA-256(previous hash || canonical JSON of the content), where the content is the event as it
came and the entry's number, and the first previous hash is 32 zero bytes. Changing, removing or
inserting an entry breaks every hash after it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.contracts.envelope import Envelope
from libs.db.pool import Row, Tx
from services.tenants import store_audit as store

GENESIS = bytes(32)
VERIFY_PAGE = 1_000


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
    last = await store.last_entry(tx)
    seq = 1 if last is None else last["seq"] + 1
    previous_hash = GENESIS if last is None else last["hash"]
    content = {"seq": seq, **event.model_dump(mode="json", exclude={"stream_seq"})}
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
        entry_hash=entry_hash(previous_hash, content),
    )


def entry_hash(previous_hash: bytes, content: Mapping[str, Any]) -> bytes:
    """The hash of an entry. Canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(previous_hash + text.encode()).digest()


async def first_broken_entry(tx: Tx) -> int | None:
    """The number of the first entry of the tenant's chain that does not hold; None where all do."""
    expected_seq, previous_hash = 1, GENESIS
    while True:
        rows = await store.read_chain(tx, expected_seq - 1, VERIFY_PAGE)
        for row in rows:
            if not _holds(row, expected_seq, previous_hash):
                return expected_seq
            expected_seq, previous_hash = expected_seq + 1, row["hash"]
        if len(rows) < VERIFY_PAGE:
            return None


def _holds(row: Row, seq: int, previous_hash: bytes) -> bool:
    return bool(
        row["seq"] == seq
        and row["content"]["seq"] == seq
        and row["previous_hash"] == previous_hash
        and row["hash"] == entry_hash(previous_hash, row["content"])
    )


async def search(tx: Tx, wanted: store.Wanted, before: int | None, limit: int) -> list[Row]:
    """Entries of the tenant in scope, the newest first."""
    return await store.list_entries(tx, wanted, before, limit)
