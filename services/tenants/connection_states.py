"""How a connection's state changes: switched off and on, revoked, and what is told of its health.

Handlers call the `follow_…` functions: they read no clock, and a fact that is known or older than what
is known changes nothing.
"""

from datetime import datetime
from typing import Any

from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.contracts.stripe_accounts import (
    StripeAccountChanged,
    StripeAccountDeauthorized,
    StripeCredentialRefused,
)
from libs.db.pool import Row, Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from libs.observability.metrics import SECURITY_EVENTS_TOTAL
from services.tenants import (
    connections,
    raw_keys,
    secrets,
    snapshot,
    store_secrets,
    store_tenants,
)
from services.tenants import store_connections as store

STRIPE = "stripe"
SYSTEM = "system"
REQUIREMENTS_MAX = 100


async def set_active(tx: Tx, active: bool, actor: str, at: datetime) -> None:
    """Switch the connection in scope off or on; its keys are kept."""
    await store_tenants.lock_tenant(tx)
    row = await store.find_connection(tx)
    if row is None or row["is_active"] == active:
        return
    await store.update_connection(tx, at, is_active=active)
    word = "activated" if active else "deactivated"
    await tell(tx, f"stripe_connection.{word}", row, actor, at)
    await snapshot.publish(tx, at)


def ended(at: datetime) -> dict[str, Any]:
    """The columns of a connection that is over: nothing is left that was true of its account."""
    return {
        "status": "REVOKED",
        "revoked_at": at,
        "publishable_key": None,
        "limited": False,
        "key_failure": None,
        "key_check_due_at": None,
        "webhook_state": "none",
        "webhook_failure": None,
        "webhook_due_at": None,
        "webhook_endpoint_id": None,
        "webhook_token_hashes": [],
        "pending_since": None,
        **raw_keys.NO_HEALTH,
    }


async def revoke(
    tx: Tx, row: Row, actor: str, at: datetime, *, by_event: str | None = None
) -> None:
    """The connection is over: nothing of its account is called any more, its secrets go."""
    event_id = by_event or row["revoked_by_event"]
    await store.update_connection(tx, at, **ended(at), revoked_by_event=event_id)
    taken = await store_secrets.archive(
        tx, row["connection_id"], at=at, states=("current", "previous")
    )
    if taken:
        await secrets.publish_secrets(tx, at)
    await tell(tx, "stripe_connection.revoked", row, actor, at)
    await snapshot.publish(tx, at)


async def tell(tx: Tx, action: str, before: Row | None, actor: str, at: datetime) -> None:
    """Record a change of the connection in scope, which is made already."""
    after = await store.find_connection(tx)
    assert after is not None, "a connection is never deleted"
    emit(
        tx,
        ConfigurationChanged(
            action=action,
            actor=actor,
            object_id=public_id("connection", after["connection_id"]),
            before=None if before is None else connections.shown(before),
            after=connections.shown(after),
        ),
        effective_at=at,
    )


async def follow_account(tx: Tx, fact: StripeAccountChanged, at: datetime) -> None:
    """Take a later word of Stripe on the account; an onboarded account is connected."""
    await store_tenants.lock_tenant(tx)
    row = await store.find_connection(tx)
    if row is None or row["account_id"] != fact.account or row["status"] == "REVOKED":
        return
    if row["health_at"] is not None and row["health_at"] >= fact.fetched_at:
        return
    values: dict[str, Any] = {
        "charges_enabled": fact.charges_enabled,
        "payouts_enabled": fact.payouts_enabled,
        "details_submitted": fact.details_submitted,
        "requirements_due": list(fact.requirements_due)[:REQUIREMENTS_MAX],
        "disabled_reason": fact.disabled_reason,
        "health_at": fact.fetched_at,
    }
    await take_health(tx, row, values, at)


def is_being_onboarded(row: Row) -> bool:
    """Whether the account was made by an account link and is not connected yet.

    A start by OAuth is pending too, but knows no account, or one that was left before it.
    """
    return bool(
        row["status"] == "PENDING"
        and row["account_id"] is not None
        and row["health_at"] is not None
        and row["pending_since"] is not None
        and row["health_at"] >= row["pending_since"]
    )


async def take_health(tx: Tx, row: Row, values: dict[str, Any], at: datetime) -> None:
    """Set what Stripe says of the account, and tell what is new in it."""
    connected = is_being_onboarded(row) and values["details_submitted"]
    if connected:
        # As for the other ways to connect: nothing holds on of a connection that was there before.
        values |= {
            "status": "CONNECTED",
            "is_active": True,
            "key_valid": True,
            "key_failure": None,
            "key_check_due_at": at,
            "connected_at": at,
            "pending_since": None,
            "revoked_at": None,
        }
    await store.update_connection(tx, at, **values)
    if connected:
        await tell(tx, "stripe_connection.connected", row, STRIPE, at)
    told = ("charges_enabled", "payouts_enabled", "requirements_due")
    if connected or any(row[name] != values[name] for name in told):
        await snapshot.publish(tx, at)


async def learn_account(tx: Tx, row: Row, values: dict[str, Any], at: datetime) -> None:
    """A restricted key may read its account by now: it is known whose money it moves."""
    await store.update_connection(tx, at, **values, limited=False)
    await tell(tx, "stripe_connection.account_learned", row, SYSTEM, at)
    await snapshot.publish(tx, at)


async def follow_deauthorized(tx: Tx, fact: StripeAccountDeauthorized, at: datetime) -> None:
    """The tenant took the access back at Stripe."""
    await store_tenants.lock_tenant(tx)
    row = await store.find_connection(tx)
    if row is None or row["account_id"] != fact.account or row["kind"] == "RAW_KEYS":
        return
    if row["status"] not in ("CONNECTED", "PENDING"):
        return
    # Stripe's times are whole seconds, so within one second the event's id decides.
    since = row["connected_at"] or row["pending_since"]
    if since is not None and fact.deauthorized_at < since.replace(microsecond=0):
        return
    if row["revoked_by_event"] == fact.stripe_event_id:
        return
    await revoke(tx, row, STRIPE, at, by_event=fact.stripe_event_id)


async def follow_refused(tx: Tx, fact: StripeCredentialRefused, at: datetime) -> None:
    """Stripe refused the key that is in use."""
    await store_tenants.lock_tenant(tx)
    row = await store.find_connection(tx)
    if row is None or row["connection_id"] != fact.connection_id or row["status"] != "CONNECTED":
        return
    current = await store_secrets.find_current(tx, row["connection_id"], "stripe_secret_key")
    version = 0 if current is None or row["kind"] != "RAW_KEYS" else current["version"]
    if version != fact.credential_version or not row["key_valid"]:
        return
    checked_at = row["key_checked_at"]
    if checked_at is not None and checked_at >= fact.refused_at:
        return
    await key_failed(tx, fact.code, fact.refused_at, at)


async def key_proved(tx: Tx, row: Row, at: datetime) -> None:
    """The key in use was proved again."""
    await store.update_connection(tx, at, key_valid=True, key_failure=None, key_checked_at=at)
    if not row["key_valid"]:
        await tell(tx, "stripe_connection.key_valid_again", row, SYSTEM, at)
        await snapshot.publish(tx, at)


async def key_failed(tx: Tx, code: str, seen_at: datetime, at: datetime) -> None:
    """Mark the key in use as refused and raise the alarm; it is valid until now."""
    await store.update_connection(
        tx, at, key_valid=False, key_failure=code[:100], key_checked_at=seen_at
    )
    severity = "critical"
    SECURITY_EVENTS_TOTAL.labels(kind="stripe_key_failed", severity=severity).inc()
    emit(
        tx,
        SecurityEventRaised(
            kind="stripe_key_failed",
            severity=severity,
            actor=SYSTEM,
            service=tx.service,
            method="GET",
            path="/v1/account",
        ),
        effective_at=at,
    )
    await snapshot.publish(tx, at)
