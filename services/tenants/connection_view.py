"""The health of a connection as the API shows it, with sentences that say what to do."""

from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, Field

from libs.contracts.envelope import Mode
from libs.contracts.tenants import ConnectionKind, ConnectionStatus
from libs.db.pool import Row, Tx
from services.tenants import connections, key_use, store_secrets
from services.tenants import store_connections as store

SILENT_AFTER = timedelta(hours=1)
"""So long after it was connected an account whose webhooks never came deserves a look."""


class ConnectionHealthBody(BaseModel):
    """Whether a tenant's own Stripe account in this mode is well."""

    mode: Mode
    connected: bool = Field(description="Connected, switched on, and its key not refused.")
    status: ConnectionStatus
    kind: ConnectionKind | None
    is_active: bool
    stripe_account_id: str | None
    charges_enabled: bool
    payouts_enabled: bool
    requirements_due: list[str]
    disabled_reason: str | None
    key_valid: bool
    key_failure: str | None
    key_version: int | None
    key_last_used_at: datetime | None = Field(description="Of this version, by any service.")
    key_checked_at: datetime | None
    webhook: str = Field(description="`registered`, `given`, `wanted`, `none`, or `platform`.")
    last_webhook_at: datetime | None = Field(description="Of the account that is connected now.")
    checked_at: datetime | None = Field(description="When Stripe last told of the account.")
    problems: list[str] = Field(description="What is wrong and what to do about it.")


async def read_health(tx: Tx, mode: Mode, now: datetime) -> ConnectionHealthBody:
    """The health of the connection in scope; not connected where there is none."""
    row = await store.find_connection(tx)
    if row is None:
        return ConnectionHealthBody.model_validate(_NOTHING | {"mode": mode})
    connection_id = row["connection_id"]
    key = await store_secrets.find_current(tx, connection_id, "stripe_secret_key")
    uses = await key_use.uses_of(tx, "stripe_secret_key", str(connection_id))
    received_at = await connections.last_webhook_at(tx, row)
    by_connect = row["kind"] != "RAW_KEYS"
    is_over = row["status"] not in ("CONNECTED", "PENDING")
    return ConnectionHealthBody(
        mode=mode,
        connected=row["status"] == "CONNECTED" and row["is_active"] and row["key_valid"],
        status=row["status"],
        kind=row["kind"],
        is_active=row["is_active"],
        stripe_account_id=row["account_id"],
        charges_enabled=row["charges_enabled"],
        payouts_enabled=row["payouts_enabled"],
        requirements_due=list(row["requirements_due"]),
        disabled_reason=row["disabled_reason"],
        key_valid=row["key_valid"] and not is_over,
        key_failure=row["key_failure"],
        key_version=None if key is None else key["version"],
        key_last_used_at=None if key is None else _latest(uses, key["version"]),
        key_checked_at=None if is_over else row["key_checked_at"],
        webhook="platform" if by_connect and not is_over else row["webhook_state"],
        last_webhook_at=received_at,
        checked_at=None if is_over else row["health_at"],
        problems=_problems(row, received_at, now),
    )


async def disconnected(tx: Tx) -> dict[str, Any]:
    """What is left of a connection that was ended."""
    row = await store.find_connection(tx)
    assert row is not None, "a connection is never deleted"
    return {
        "status": row["status"],
        "kind": row["kind"],
        "stripe_account_id": row["account_id"],
        "is_active": row["is_active"],
        "revoked_at": row["revoked_at"],
    }


def _latest(uses: list[Row], version: int) -> datetime | None:
    return max((use["used_at"] for use in uses if use["version"] == version), default=None)


def _problems(row: Row, received_at: datetime | None, now: datetime) -> list[str]:
    if row["status"] == "PENDING":
        return ["The account's owner has not finished on Stripe's pages. Finish, or start again."]
    if row["status"] != "CONNECTED":
        return [_CONNECT_FIRST]
    problems = []
    if not row["is_active"]:
        problems.append("The connection is switched off. Switch it on to take payments.")
    if not row["key_valid"]:
        problems.append(
            "Stripe refuses the key. Give a new one to POST /api/v1/billing/config."
            if row["kind"] == "RAW_KEYS"
            else "Stripe refuses the platform's access. Connect the account again."
        )
    if row["health_at"] is not None and not row["charges_enabled"]:
        problems.append("The account cannot take payments. See what Stripe's dashboard asks for.")
    if row["health_at"] is not None and not row["payouts_enabled"]:
        problems.append("The account is not paid out. See what Stripe's dashboard asks for.")
    if row["requirements_due"]:
        problems.append("Stripe wants to know more by now. Complete it in Stripe's dashboard.")
    if row["kind"] == "RAW_KEYS" and row["webhook_state"] in ("none", "wanted"):
        problems.append(
            "No webhook yet: what happens at Stripe is seen late. Enter the address at Stripe and give "
            "its secret to POST /api/v1/billing/config."
        )
    elif received_at is None and row["connected_at"] < now - SILENT_AFTER:
        problems.append("No webhook has come in yet. Check the endpoint in Stripe's dashboard.")
    return problems


_CONNECT_FIRST = "Connect Stripe first: POST /api/v1/connect/start."
_NOTHING: dict[str, Any] = {
    "connected": False,
    "status": "NOT_CONNECTED",
    "kind": None,
    "is_active": False,
    "stripe_account_id": None,
    "charges_enabled": False,
    "payouts_enabled": False,
    "requirements_due": [],
    "disabled_reason": None,
    "key_valid": False,
    "key_failure": None,
    "key_version": None,
    "key_last_used_at": None,
    "key_checked_at": None,
    "webhook": "none",
    "last_webhook_at": None,
    "checked_at": None,
    "problems": [_CONNECT_FIRST],
}
