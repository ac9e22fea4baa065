"""A tenant's billing configuration as the API shows it: everything but the secrets."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from libs.contracts.envelope import Mode
from libs.contracts.tenants import ConnectionKind, ConnectionStatus
from libs.db.pool import Row, Tx
from libs.ids import public_id
from services.tenants import key_use, store_secrets

RAW_KEYS_WARNING = (
    "Sluice now keeps your Stripe secret key, encrypted. Whoever holds that key can charge, refund "
    "and read everything in your account, so a leak anywhere it is kept is a leak of your account. "
    "Stripe Connect avoids that: Sluice then keeps no key of yours, and you can take the access back "
    "in Stripe's dashboard at any time. Start with POST /api/v1/connect/start."
)
LIMITED_WARNING = (
    "This restricted key may not read its own account, so Sluice cannot tell which account it belongs "
    "to, nor whether it can charge and be paid out: until then no payment is made with it. Give it read "
    "access to the account in Stripe's dashboard; Sluice looks once a day, and at once when the key is "
    "sent again."
)
PLATFORM_WARNING = (
    "This is the platform's own Stripe account. Its webhooks come in at the platform's address; "
    "none was registered for this tenant."
)
REVOKE_ADVICE = "Revoke the old key in Stripe's dashboard now. Sluice looks from time to time whether it is dead."


class SecretVersionBody(BaseModel):
    """A version of a secret: what names it, never the secret."""

    version: int
    last4: str
    fingerprint: str = Field(description="The same for the same secret; tells nothing of it.")
    state: Literal["current", "previous", "archived", "destroyed"]
    valid_until: datetime | None = Field(description="A previous version is used until then.")
    created_at: datetime
    last_used_at: datetime | None = Field(description="Exact to a minute or so.")


class PreviousKeyBody(SecretVersionBody):
    """A key that was replaced."""

    dead_at: datetime | None = Field(description="When Stripe was seen to refuse it.")
    advice: str | None = Field(description="What to do about it; null once it is dead.")


class SecretKeyBody(SecretVersionBody):
    """The secret key in use.

    Attributes:
        valid: what Stripe last said to it.
    """

    valid: bool
    failure: str | None
    checked_at: datetime | None


class WebhookBody(BaseModel):
    """How events of the tenant's account come in."""

    status: Literal["registered", "given", "registering", "none"] = Field(
        description="`registered` by Sluice at Stripe; `given`: the tenant entered its secret; "
        "`none`: no webhook yet."
    )
    url: str | None = Field(
        description="Enter it at Stripe. Shown once, in the answer that made it; null afterwards."
    )
    failure: str | None = Field(description="Why Sluice could not register its URL itself.")
    secret: SecretVersionBody | None
    previous: SecretVersionBody | None
    last_received_at: datetime | None


class BillingConfigBody(BaseModel):
    """The tenant's own Stripe account in this mode, as far as it may be shown."""

    id: str
    mode: Mode
    kind: ConnectionKind
    status: ConnectionStatus
    is_active: bool
    stripe_account_id: str | None
    stripe_publishable_key: str | None
    limited: bool = Field(description="A restricted key that may not read its own account.")
    secret_key: SecretKeyBody | None
    previous: PreviousKeyBody | None
    webhook: WebhookBody
    warnings: list[str]
    created_at: datetime
    updated_at: datetime


async def read(tx: Tx, connection: Row, *, webhook_url: str | None = None) -> BillingConfigBody:
    """The configuration of the tenant and mode in scope."""
    connection_id = connection["connection_id"]
    rows = await store_secrets.list_secrets(tx, connection_id)
    keys = _Versions(
        [row for row in rows if row["name"] == "stripe_secret_key"],
        await key_use.uses_of(tx, "stripe_secret_key", str(connection_id)),
    )
    webhooks = _Versions(
        [row for row in rows if row["name"] == "stripe_webhook_secret"],
        await key_use.uses_of(tx, "stripe_webhook_secret", str(connection_id)),
    )
    return BillingConfigBody(
        id=public_id("connection", connection_id),
        mode=connection["mode"],
        kind=connection["kind"],
        status=connection["status"],
        is_active=connection["is_active"],
        stripe_account_id=connection["account_id"],
        stripe_publishable_key=connection["publishable_key"],
        limited=connection["limited"],
        secret_key=_secret_key(connection, keys),
        previous=_previous_key(keys),
        webhook=_webhook(connection, webhooks, webhook_url),
        warnings=_warnings(connection),
        created_at=connection["created_at"],
        updated_at=connection["updated_at"],
    )


class _Versions:
    """The versions of one secret, the newest first, with when each was used."""

    def __init__(self, rows: Sequence[Row], uses: Sequence[Row]) -> None:
        self._rows = rows
        self._uses: dict[int, datetime] = {}
        for use in uses:
            known = self._uses.get(use["version"])
            self._uses[use["version"]] = max(use["used_at"], known or use["used_at"])

    @property
    def last_used_at(self) -> datetime | None:
        return max(self._uses.values(), default=None)

    def current(self) -> Row | None:
        return next((row for row in self._rows if row["state"] == "current"), None)

    def replaced(self) -> Row | None:
        return next((row for row in self._rows if row["state"] != "current"), None)

    def shown(self, row: Row) -> dict[str, object]:
        names = ("version", "last4", "fingerprint", "state", "valid_until", "created_at")
        return {name: row[name] for name in names} | {
            "last_used_at": self._uses.get(row["version"])
        }


def _secret_key(connection: Row, keys: _Versions) -> SecretKeyBody | None:
    row = keys.current()
    if row is None:
        return None
    return SecretKeyBody.model_validate(
        keys.shown(row)
        | {
            "valid": connection["key_valid"],
            "failure": connection["key_failure"],
            "checked_at": connection["key_checked_at"],
        }
    )


def _previous_key(keys: _Versions) -> PreviousKeyBody | None:
    row = keys.replaced()
    if row is None:
        return None
    advice = None if row["dead_at"] else REVOKE_ADVICE
    return PreviousKeyBody.model_validate(
        keys.shown(row) | {"dead_at": row["dead_at"], "advice": advice}
    )


def _webhook(connection: Row, versions: _Versions, url: str | None) -> WebhookBody:
    state = connection["webhook_state"]
    current, previous = versions.current(), versions.replaced()
    in_use = previous is not None and previous["state"] == "previous"
    return WebhookBody.model_validate(
        {
            "status": "registering" if state == "wanted" else state,
            "url": url,
            "failure": connection["webhook_failure"],
            "secret": None if current is None else versions.shown(current),
            "previous": versions.shown(previous) if in_use else None,
            "last_received_at": versions.last_used_at,
        }
    )


def _warnings(connection: Row) -> list[str]:
    warnings = []
    if connection["kind"] == "RAW_KEYS":
        warnings.append(RAW_KEYS_WARNING)
        if connection["limited"]:
            warnings.append(LIMITED_WARNING)
        if connection["webhook_failure"] == "platform_account":
            warnings.append(PLATFORM_WARNING)
    return warnings
