"""A tenant's own Stripe account: one connection per mode, by Connect or by its raw keys.

A connection keeps its id for ever, so that versions of its secrets and its history go on when it is
made anew. A Stripe account belongs to one tenant among all.
"""

from datetime import datetime

from libs.contracts.tenants import ConnectionRecord
from libs.db.pool import Row, Tx
from services.tenants import key_use
from services.tenants import store_connections as store


async def read_connections(tx: Tx) -> list[ConnectionRecord]:
    """What the directory tells of the tenant's connections, both modes; no secret."""
    return [_record(row) for row in await store.list_connections(tx)]


def _record(row: Row) -> ConnectionRecord:
    return ConnectionRecord(
        connection_id=row["connection_id"],
        mode=row["mode"],
        kind=row["kind"],
        status=row["status"],
        is_active=row["is_active"],
        account_id=row["account_id"],
        account_since=row["account_since"],
        charges_enabled=row["charges_enabled"],
        payouts_enabled=row["payouts_enabled"],
        requirements_due=tuple(row["requirements_due"]),
        key_valid=row["key_valid"],
        credential_version=row["credential_version"] if row["kind"] == "RAW_KEYS" else 0,
        webhook_token_hashes=tuple(row["webhook_token_hashes"]),
        application_fee_basis_points=row["application_fee_basis_points"],
        application_fee_fixed_minor=row["application_fee_fixed_minor"],
        application_fee_currency=row["application_fee_currency"],
    )


def shown(row: Row) -> dict[str, str | int | bool | None]:
    """A connection as the audit log shows it."""
    return {
        "mode": row["mode"],
        "kind": row["kind"],
        "status": row["status"],
        "is_active": row["is_active"],
        "account_id": row["account_id"],
        "publishable_key": row["publishable_key"],
        "webhook": row["webhook_state"],
    }


async def find(tx: Tx) -> Row | None:
    """The connection of the tenant and mode in scope."""
    return await store.find_connection(tx)


async def find_live(tx: Tx) -> Row | None:
    """The connection that the tenant in scope has for live mode, whatever the mode in scope."""
    rows = await store.list_connections(tx)
    return next((row for row in rows if row["mode"] == "live"), None)


async def last_webhook_at(tx: Tx, row: Row) -> datetime | None:
    """When the last webhook of the account that is connected came in: only then its secret is used.

    None where there was none yet, or the connection is over. What came in from an account before it
    does not count.
    """
    if row["status"] not in ("CONNECTED", "PENDING"):
        return None
    uses = await key_use.uses_of(tx, "stripe_webhook_secret", str(row["connection_id"]))
    latest: datetime | None = max((use["used_at"] for use in uses), default=None)
    since: datetime | None = row["account_since"]
    if latest is None or (since is not None and latest < since):
        return None
    return latest
