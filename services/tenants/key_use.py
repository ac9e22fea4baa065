"""When each version of a key or secret was last used, as the services tell it."""

from libs.contracts.audit import KeyUsed
from libs.db.pool import Row, Tx
from services.tenants import store_key_use as store


async def follow(tx: Tx, fact: KeyUsed) -> None:
    """Keep the use; an earlier one than is known changes nothing."""
    await store.keep_use(tx, fact)


async def uses_of(tx: Tx, kind: str, object_id: str) -> list[Row]:
    """The last use of each version of a key or secret, the newest version first.

    Columns: mode, version, used_at. It may be a minute and some seconds old.
    """
    return await store.last_uses(tx, kind, object_id)
