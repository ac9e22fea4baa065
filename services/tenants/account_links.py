"""Account links: an account that we make for the tenant, and its owner onboards at Stripe."""

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.contracts.tenants import ConnectionKind
from libs.db.pool import Row
from services.tenants import connection_states, raw_keys, snapshot, store_tenants
from services.tenants import store_connections as store
from services.tenants.connect_states import (
    AccountType,
    Start,
    StateRefusedError,
    WayBack,
    keep_state,
    pend,
    use,
)
from services.tenants.means import Means

KIND_OF: Mapping[AccountType, ConnectionKind] = {
    "standard": "CONNECT_STANDARD",
    "express": "CONNECT_EXPRESS",
}


class OtherAccountError(Exception):
    """Another account is connected, or was and nobody confirmed to leave it."""


async def begin(means: Means, tenant_id: UUID, mode: Mode, start: Start) -> str:
    """Where to send the owner of an account that we make, or that we made and is not onboarded.

    Raises:
        NotConfiguredError, TooManyStartsError, StripeError.
        OtherAccountError: another account is connected, or was.
    """
    means.stripe.platform(mode)
    kind = KIND_OF[start.account_type]
    async with means.database.tenant(tenant_id, mode) as tx:
        now = utc_now()
        tenant = await store_tenants.lock_tenant(tx)
        assert tenant is not None, "the gate knows the tenant"
        row = await store.find_connection(tx)
        if row is not None and _is_another(row, kind):
            if row["status"] == "CONNECTED" or not start.confirm_account_change:
                raise OtherAccountError
            await store.update_connection(tx, now, account_id=None, pending_since=None)
        await pend(tx, kind, start.actor, now)
        row = await store.find_connection(tx)
    assert row is not None, "it was entered"
    account_id = row["account_id"] or await _make_account(
        means, row, start, tenant["billing_email"]
    )
    return await _link(means, tenant_id, mode, account_id, start)


def _is_another(row: Row, kind: ConnectionKind) -> bool:
    """Whether the account that is there is none that onboarding can go on with."""
    if row["account_id"] is None:
        return bool(row["status"] == "CONNECTED")
    return bool(row["kind"] != kind) or not _is_ours(row)


def _is_ours(row: Row) -> bool:
    """Whether the platform has access: it is connected, or we made it for this start."""
    return bool(row["status"] == "CONNECTED") or connection_states.is_being_onboarded(row)


async def _make_account(means: Means, row: Row, start: Start, email: str | None) -> str:
    """A new account at Stripe: the same one when asked for again after a crash.

    Raises:
        OtherAccountError: meanwhile something else was connected, or begun: it stays as it is.
    """
    since: datetime = row["pending_since"]
    health = await means.stripe.create_account(
        row["mode"],
        start.account_type,
        email=email,
        tenant_id=str(row["tenant_id"]),
        idempotency_key=f"sluice:{row['connection_id']}:account:{since.timestamp():.6f}",
    )
    async with means.database.tenant(row["tenant_id"], row["mode"]) as tx:
        now = utc_now()
        await store_tenants.lock_tenant(tx)
        if not _is_same_start(await store.find_connection(tx), row):
            raise OtherAccountError
        await store.claim_account(tx, health.account_id)
        values = raw_keys.health_values(health, now) | {"account_since": now}
        await store.update_connection(tx, now, **values)
        await snapshot.publish(tx, now)
    return health.account_id


def _is_same_start(row: Row | None, begun: Row) -> bool:
    """Whether the connection still waits for the account that was asked for."""
    return (
        row is not None
        and row["status"] == "PENDING"
        and (row["kind"], row["pending_since"]) == (begun["kind"], begun["pending_since"])
    )


async def _link(means: Means, tenant_id: UUID, mode: Mode, account_id: str, start: Start) -> str:
    back = WayBack.make(tenant_id, mode)
    base, query = f"{means.settings.origin_url}/api/v1/connect", urlencode({"state": back.text})
    async with means.database.tenant(tenant_id, mode) as tx:
        await keep_state(tx, back, "account_link", start, utc_now())
    return await means.stripe.create_account_link(
        mode,
        account_id,
        refresh_url=f"{base}/refresh?{query}",
        return_url=f"{base}/return?{query}",
    )


async def finish(means: Means, state_text: str) -> str:
    """Look at the account again after its owner came back from onboarding; the path to be shown.

    Raises:
        StateRefusedError: nothing was done.
        StripeError, NotConfiguredError: the state is used; webhooks will tell the rest.
    """
    back, state = await use(means, state_text, "account_link", None)
    await look_again(means, back.tenant_id, back.mode)
    return str(state["return_to"])


async def look_again(means: Means, tenant_id: UUID, mode: Mode) -> None:
    """Take what Stripe says of a connected account now.

    Raises:
        StripeError, NotConfiguredError: see their kinds.
    """
    async with means.database.tenant(tenant_id, mode) as tx:
        row = await store.find_connection(tx)
    if row is None or row["account_id"] is None or row["status"] not in ("PENDING", "CONNECTED"):
        return
    health = await means.stripe.connected_account(mode, row["account_id"])
    async with means.database.tenant(tenant_id, mode) as tx:
        now = utc_now()
        await store_tenants.lock_tenant(tx)
        row = await store.find_connection(tx)
        if (
            row is not None
            and row["account_id"] == health.account_id
            and row["status"] != "REVOKED"
        ):
            values = raw_keys.health_values(health, now)
            await connection_states.take_health(tx, row, values, now)


async def renew(means: Means, state_text: str) -> str:
    """A new address in the place of an onboarding address that was too old.

    Raises:
        StateRefusedError: nothing was done.
        StripeError, NotConfiguredError: the state is used; start again.
    """
    back, state = await use(means, state_text, "account_link", None)
    async with means.database.tenant(back.tenant_id, back.mode) as tx:
        row = await store.find_connection(tx)
    if row is None or row["account_id"] is None or row["status"] == "REVOKED":
        raise StateRefusedError
    start = Start(state["actor"], state["session_id"], state["return_to"])
    return await _link(means, back.tenant_id, back.mode, row["account_id"], start)
