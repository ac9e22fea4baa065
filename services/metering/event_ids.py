"""What makes an event count once: 128 bits of its source and id, unique within tenant and mode."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

from libs.db.pool import Tx
from services.metering import store_usage as store
from services.metering.store_usage import EventKey

SourceAndId = tuple[str, str]

SOURCES_REMEMBERED = 4_096


def hash_of_id(source: str, event_id: str) -> bytes:
    """128 bits of source and id.

    Of a time-ordered id (UUIDv7) the first 48 are its own time and only the rest are a hash: so ids
    of the same moment lie together, and entering a new one touches no page that was not touched a moment
    ago, however many are kept.

    Raises:
        UnicodeEncodeError: a text holds half a character.
    """
    time = _time_in(event_id)
    if time is None:
        return former_hash_of_id(source, event_id)
    return time + blake2b(_start_of(source) + event_id.encode(), digest_size=10).digest()


def former_hash_of_id(source: str, event_id: str) -> bytes:
    """What stood for a time-ordered id too before it kept its time, and stands for all others."""
    return blake2b(_start_of(source) + event_id.encode(), digest_size=16).digest()


async def entered_before(
    tx: Tx, names: Iterable[tuple[EventKey, SourceAndId]]
) -> Mapping[EventKey, bytes]:
    """Of these events, those whose ids stand under the former hash, which they keep.

    One look at a table that is empty unless ids were there when the hash changed; and nothing is
    looked for once they are all pruned.
    """
    if not await store.has_former_ids(tx):
        return {}
    tenants = store.TENANT_BYTES
    former = {
        key[:tenants] + former_hash_of_id(*name): key
        for key, name in names
        if _time_in(name[1]) is not None
    }
    there = await store.ids_there(tx, sorted(former))
    return {former[each]: each[tenants:] for each in there}


@lru_cache(maxsize=SOURCES_REMEMBERED)
def _start_of(source: str) -> bytes:
    """The source, told apart from whatever id follows."""
    text = source.encode()
    return len(text).to_bytes(4, "big") + text


def _time_in(event_id: str) -> bytes | None:
    """The 48 bits of time in a UUIDv7 of 36 characters; None for any other id."""
    if len(event_id) != 36 or event_id[8:15:6] != "-7":
        return None
    try:
        time = bytes.fromhex(event_id[:8] + event_id[9:13])
    except ValueError:
        return None
    return time if len(time) == 6 else None
