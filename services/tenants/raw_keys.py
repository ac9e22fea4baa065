"""A tenant's own Stripe keys: proved at Stripe first, then kept as the new version.

Proving happens outside of any transaction and before anything is changed, so that a bad key changes
nothing. A new key belongs to the same account as the one before, unless the caller confirms.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_urlsafe
from typing import Any
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.db.pool import Row, Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.tenants import connections, secrets, snapshot, store_secrets, store_tenants
from services.tenants import store_connections as store
from services.tenants.stripe_api import (
    Health,
    Identity,
    StripeApi,
    StripeDeniedError,
    StripeKeyError,
)

OVERLAP_MAX = timedelta(hours=24)
"""How long a version that was replaced stays good, at most (Stripe's own limit for secrets)."""
CHECK_EVERY = timedelta(days=1)
TOKEN_BYTES = 32
TOKENS_MAX = 2

_SECRET_KEY = re.compile(r"(?P<kind>sk|rk)_(?P<mode>test|live)_[A-Za-z0-9_]{4,240}")
_PUBLISHABLE_KEY = re.compile(r"pk_(?P<mode>test|live)_[A-Za-z0-9_]{4,240}")
_WEBHOOK_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{4,240}")


class BadKeysError(Exception):
    """The keys are not what they must be; nothing was changed. `code` is stable."""

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


class AccountDiffersError(Exception):
    """The key belongs to another account than the one connected, and nobody confirmed the move."""


class AccountUnknownError(Exception):
    """A restricted key does not tell its account, so it may be another one; nobody confirmed."""


class AccountTakenError(Exception):
    """The account belongs to another tenant."""


class NothingToKeepError(Exception):
    """There is no configuration yet, and no secret key to begin one with."""


@dataclass(frozen=True)
class Presented:
    """What a caller gave; None: leave it as it is."""

    secret_key: str | None = field(default=None, repr=False)
    publishable_key: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Proof:
    """What Stripe said to a key.

    Attributes:
        health: of the key's account; None for a restricted key that may not read it.
        platform: the account is the platform's own.
    """

    health: Health | None
    platform: bool = False


@dataclass(frozen=True)
class Change:
    """What to save: proved, and its secrets kept already."""

    presented: Presented
    proof: Proof | None
    secrets: tuple[secrets.NewSecret, ...]
    actor: str
    overlap: timedelta
    confirm_account_change: bool


@dataclass(frozen=True)
class Saved:
    """What was saved.

    Attributes:
        created: there was no connection before.
        unused: secrets that were kept in vain, to be discarded.
        webhook_token: of a new webhook URL; seen here only.
    """

    connection: Row
    created: bool
    unused: tuple[secrets.NewSecret, ...]
    webhook_token: str | None = field(default=None, repr=False)


def check(presented: Presented, mode: Mode) -> None:
    """Check what can be seen of the keys without asking Stripe.

    Raises:
        BadKeysError: one of them cannot be what it is given as.
    """
    if presented.secret_key is not None:
        _check_secret_key(presented.secret_key, mode)
    publishable = presented.publishable_key
    if publishable is not None:
        found = _PUBLISHABLE_KEY.fullmatch(publishable)
        if found is None:
            raise BadKeysError(
                "stripe_publishable_key_malformed",
                "`stripe_publishable_key` must be the whole key that begins with pk_test_ or pk_live_.",
            )
        if found["mode"] != mode:
            raise BadKeysError(
                "stripe_publishable_key_wrong_mode",
                f"`stripe_publishable_key` is not of mode {mode}. Give both keys of one mode.",
            )
    webhook = presented.webhook_secret
    if webhook is not None and _WEBHOOK_SECRET.fullmatch(webhook) is None:
        raise BadKeysError(
            "stripe_webhook_secret_malformed",
            "`webhook_secret` must be the whole signing secret that begins with whsec_.",
        )


def _check_secret_key(key: str, mode: Mode) -> None:
    if key.startswith("pk_"):
        raise BadKeysError(
            "stripe_key_publishable",
            "`stripe_secret_key` holds a publishable key. Give the secret key, which begins with sk_ "
            "or, restricted, rk_.",
        )
    found = _SECRET_KEY.fullmatch(key)
    if found is None:
        raise BadKeysError(
            "stripe_key_malformed",
            "`stripe_secret_key` must be the whole key as Stripe shows it: sk_test_…, sk_live_…, "
            "rk_test_… or rk_live_…, without spaces.",
        )
    if found["mode"] != mode:
        raise BadKeysError(
            "stripe_key_wrong_mode",
            f"`stripe_secret_key` is not of mode {mode}. Use an API key of Sluice of the same mode as "
            "the Stripe key.",
        )


async def prove(stripe: StripeApi, key: str) -> Proof:
    """Ask Stripe whose key this is.

    Raises:
        BadKeysError: Stripe does not take it.
        StripeAwayError, StripeRefusedError: Stripe could not be asked.
    """
    try:
        health = await stripe.own_account(Identity(key))
    except StripeKeyError:
        raise BadKeysError(
            "stripe_key_rejected",
            "Stripe does not accept this secret key: it is incomplete, expired or revoked. Copy it "
            "again from Stripe's dashboard.",
        ) from None
    except StripeDeniedError:
        if key.startswith("rk_"):
            return Proof(None)
        raise BadKeysError(
            "stripe_key_denied",
            "Stripe knows this secret key but does not let it read its account. Check the key's "
            "restrictions in Stripe's dashboard.",
        ) from None
    return Proof(health, platform=health.account_id == await stripe.platform_account())


async def save(tx: Tx, change: Change, at: datetime) -> Saved:
    """Keep the proved keys as the new versions and tell everybody.

    Raises:
        NothingToKeepError, AccountDiffersError, AccountUnknownError, AccountTakenError.
        secrets.OverlapError: a webhook's secret that was replaced lately is still good.
    """
    await store_tenants.lock_tenant(tx)
    before = await store.find_connection(tx)
    if change.proof is None and (before is None or before["kind"] != "RAW_KEYS"):
        raise NothingToKeepError
    if before is None:
        await store.insert_connection(tx, new_id(), "RAW_KEYS", "NOT_CONNECTED", change.actor, at)
    row = before or await store.find_connection(tx)
    assert row is not None, "it was entered"
    values = await _account_values(tx, row, change, at)
    moved = values.pop("moved", False)
    if moved:
        # Nothing of the account before may be used, or believed, for the new one.
        await store_secrets.archive(tx, row["connection_id"], at=at, states=("current", "previous"))
        values |= {
            "publishable_key": None,
            "webhook_state": "none",
            "webhook_token_hashes": [],
            "webhook_endpoint_id": None,
        }
    if change.presented.publishable_key is not None:
        values["publishable_key"] = change.presented.publishable_key
    versions, unused = await _enter_secrets(tx, row["connection_id"], change, at)
    token, webhook = _webhook_values({**row, **values}, change, at)
    values |= webhook
    if values:
        await store.update_connection(tx, at, **values)
    after = await store.find_connection(tx)
    assert after is not None, "it is there"
    _tell(tx, before, after, versions, change, at)
    if versions or moved:
        await secrets.publish_secrets(tx, at)
    await snapshot.publish(tx, at)
    return Saved(after, before is None, unused, token)


async def _account_values(tx: Tx, row: Row, change: Change, at: datetime) -> dict[str, Any]:
    """What the proof changes of the connection; `moved` where the account is another."""
    if change.proof is None:
        return {}
    values: dict[str, Any] = {
        "kind": "RAW_KEYS",
        "status": "CONNECTED",
        "is_active": True if row["status"] != "CONNECTED" else row["is_active"],
        "limited": change.proof.health is None,
        "key_valid": True,
        "key_failure": None,
        "key_checked_at": at,
        "key_check_due_at": at + CHECK_EVERY,
        "connected_at": row["connected_at"] or at,
        "revoked_at": None,
        "pending_since": None,
    }
    health = change.proof.health
    known = row["account_id"] if row["connected_at"] is not None else None
    if row["kind"] != "RAW_KEYS" or row["status"] != "CONNECTED":
        values["account_since"] = at
    if health is None:
        # Nothing is paid into, or believed of, an account that may be another: one that an account
        # link is still open for, or the one before.
        values |= {**NO_HEALTH, "account_id": None}
        if known is None and not await _replaces_limited(tx, row, change):
            return values
        if not change.confirm_account_change:
            raise AccountUnknownError
        return {**values, "account_since": at, "moved": True}
    if known is not None and known != health.account_id and not change.confirm_account_change:
        raise AccountDiffersError
    if not await store.claim_account(tx, health.account_id):
        raise AccountTakenError
    values |= health_values(health, at)
    values["moved"] = known is not None and known != health.account_id
    if values["moved"]:
        values["account_since"] = at
    return values


async def _replaces_limited(tx: Tx, row: Row, change: Change) -> bool:
    """Whether another key takes the place of one whose account was not known either."""
    if row["status"] != "CONNECTED" or not row["limited"]:
        return False
    current = await store_secrets.find_current(tx, row["connection_id"], "stripe_secret_key")
    return current is not None and any(
        new.name == "stripe_secret_key" and new.fingerprint != current["fingerprint"]
        for new in change.secrets
    )


NO_HEALTH: Mapping[str, Any] = {
    "charges_enabled": False,
    "payouts_enabled": False,
    "details_submitted": False,
    "requirements_due": [],
    "disabled_reason": None,
    "health_at": None,
}
"""The columns of an account of which nothing is known."""


def health_values(health: Health, at: datetime) -> dict[str, Any]:
    """The columns that what Stripe says of an account sets."""
    return {
        "account_id": health.account_id,
        "charges_enabled": health.charges_enabled,
        "payouts_enabled": health.payouts_enabled,
        "details_submitted": health.details_submitted,
        "requirements_due": list(health.requirements_due)[:100],
        "disabled_reason": health.disabled_reason,
        "health_at": at,
    }


async def _enter_secrets(
    tx: Tx, connection_id: UUID, change: Change, at: datetime
) -> tuple[dict[str, int], tuple[secrets.NewSecret, ...]]:
    """The versions that were entered, and what was not needed: it is the current one already."""
    versions: dict[str, int] = {}
    unused = []
    for new in change.secrets:
        current = await store_secrets.find_current(tx, connection_id, new.name)
        if current is not None and current["fingerprint"] == new.fingerprint:
            unused.append(new)
            continue
        if new.name == "stripe_webhook_secret" and change.overlap:
            await secrets.refuse_in_overlap(tx, connection_id, new.name, at)
        versions[new.name] = await secrets.enter(
            tx, connection_id, new, actor=change.actor, at=at, overlap=change.overlap
        )
    return versions, tuple(unused)


def _webhook_values(
    row: Mapping[str, Any], change: Change, at: datetime
) -> tuple[str | None, dict[str, Any]]:
    """A new token where the URL is new to the tenant, and the columns of the webhook."""
    hashes, state = list(row["webhook_token_hashes"]), row["webhook_state"]
    if change.presented.webhook_secret is not None:
        values: dict[str, Any] = {
            "webhook_state": "given",
            "webhook_failure": None,
            "webhook_due_at": None,
            "webhook_endpoint_id": None,
        }
        if hashes and state != "registered":
            return None, values
        token = new_token()
        return token, values | {"webhook_token_hashes": [hash_token(token), *hashes][:TOKENS_MAX]}
    if change.proof is None or state != "none":
        return None, {}
    if change.proof.platform:
        return None, {"webhook_failure": "platform_account"}
    return None, {
        "webhook_state": "wanted",
        "webhook_failure": None,
        "webhook_due_at": at,
        "webhook_overlap_seconds": None,
    }


def _tell(
    tx: Tx, before: Row | None, after: Row, versions: dict[str, int], change: Change, at: datetime
) -> None:
    """Record who changed what; of secrets the version and what they end with."""
    shown: dict[str, str | int | bool | None] = {}
    for new in change.secrets:
        if new.name in versions:
            word = new.name.removeprefix("stripe_")
            shown[f"{word}_version"] = versions[new.name]
            shown[f"{word}_last4"] = new.last4
            shown[f"{word}_fingerprint"] = new.fingerprint
    fact = ConfigurationChanged(
        action="stripe_connection.created" if before is None else "stripe_connection.changed",
        actor=change.actor,
        object_id=public_id("connection", after["connection_id"]),
        before=None if before is None else connections.shown(before),
        after=connections.shown(after) | shown,
    )
    emit(tx, fact, effective_at=at)


def hash_token(token: str) -> str:
    """What is kept of the opaque part of a webhook URL."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    """The opaque part of a webhook URL: 256 random bits."""
    return token_urlsafe(TOKEN_BYTES)
