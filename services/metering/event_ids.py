"""What makes an event count once: 128 bits of its source and id, unique within tenant and mode.

What the platform reports has its ids apart from the tenant's: who is billed can neither take the id of
such an event nor name it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache
from hashlib import blake2b

from libs.db.pool import Tx
from services.metering import store_usage as store
from services.metering.store_usage import EventKey
from services.metering.window import DEDUP_DAYS

SourceAndId = tuple[str, str]

SOURCES_REMEMBERED = 4_096

_PLATFORM = b"by the platform"
"""Sets the hashes of what the platform reports apart from all others."""

_LOOKED_BACK = timedelta(days=DEDUP_DAYS + 2)
"""So long after marks began an id from before them may be there."""


def hash_of_id(source: str, event_id: str, *, by_platform: bool = False) -> bytes:
    """128 bits of source and id.

    Of a time-ordered id (UUIDv7) the first 48 are its own time and only the rest are a hash: so ids
    of the same moment lie together, and entering a new one touches no page that was not touched a moment
    ago, however many are kept.

    Args:
        by_platform: the platform reported the event.

    Raises:
        UnicodeEncodeError: a text holds half a character.
    """
    time = _time_in(event_id)
    said = _start_of(source) + event_id.encode()
    person = _PLATFORM if by_platform else b""
    if time is None:
        return blake2b(said, digest_size=16, person=person).digest()
    return time + blake2b(said, digest_size=10, person=person).digest()


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
        key: key[:tenants] + former_hash_of_id(*name)
        for key, name in names
        if _time_in(name[1]) is not None
    }
    there = await store.ids_there(tx, sorted(set(former.values())))
    return {key: each[tenants:] for key, each in former.items() if each in there}


async def entered_unmarked(
    tx: Tx, coming: Sequence[tuple[EventKey, SourceAndId | None, date]]
) -> Mapping[EventKey, bytes]:
    """Of the platform's events among these, those whose ids were entered before it marked its own.

    They keep the hash that they have. What came in since and bears no mark is the tenant's.

    Args:
        coming: events in the order in which they are entered: the id, the name of those that are the
            platform's, and the day they came in.
    """
    last_day = (await store.marked_since(tx)).date()
    tenants = store.TENANT_BYTES
    unmarked = {
        key: key[:tenants] + hash_of_id(*name)
        for key, name, day in coming
        if name is not None and day <= last_day + _LOOKED_BACK
    }
    if not unmarked:
        return {}
    there = await store.ids_there(tx, sorted(set(unmarked.values())), last_day)
    decided = await store.ids_there(tx, sorted(unmarked))
    found: dict[EventKey, bytes] = {}
    for key, name, day in coming:
        if name is None:
            if day <= last_day:
                there.add(key)
        elif key in unmarked and key not in decided:
            decided.add(key)
            if unmarked[key] in there:
                found[key] = unmarked[key][tenants:]
    return found


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
