"""Stripe Connect by OAuth, and disconnecting, however the account was connected.

Only the account's id is kept of what Stripe gives; its tokens are dropped.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.db.pool import Row, Tx
from services.tenants import (
    authority,
    connection_states,
    raw_keys,
    secrets,
    snapshot,
    store_secrets,
    store_tenants,
    webhooks,
)
from services.tenants import store_connections as store
from services.tenants.connect_states import Start, WayBack, keep_state, pend, unpend, use
from services.tenants.means import Means
from services.tenants.stripe_api import Health, NotConfiguredError, StripeAwayError, StripeError

log = structlog.get_logger()


class NotConnectedError(Exception):
    """There is nothing to disconnect."""


class ChangedMeanwhileError(Exception):
    """The connection is another than the one that was to be ended."""


class SignInToConnectError(Exception):
    """A program began: there is no browser whose consent this could be."""


class ConnectRefusedError(Exception):
    """Stripe, or we, did not let the account be connected; `code` is stable."""

    def __init__(self, code: str, return_to: str) -> None:
        self.code = code
        self.return_to = return_to
        super().__init__(code)


async def begin(means: Means, tenant_id: UUID, mode: Mode, start: Start) -> str:
    """Where to send the owner of a Standard account.

    Raises:
        SignInToConnectError: no session began it.
        NotConfiguredError: the platform has no key of this mode, or no client id.
        TooManyStartsError.
    """
    if start.session_id is None:
        raise SignInToConnectError
    means.stripe.platform(mode)
    back = WayBack.make(tenant_id, mode)
    redirect = f"{means.settings.origin_url}/api/v1/connect/callback"
    url = means.stripe.authorize_url(back.text, redirect, None)
    async with means.database.tenant(tenant_id, mode) as tx:
        now = utc_now()
        await store_tenants.lock_tenant(tx)
        await keep_state(tx, back, "oauth", start, now)
        await pend(tx, "CONNECT_STANDARD", start.actor, now)
    return url


async def finish(
    means: Means,
    state_text: str,
    *,
    code: str | None,
    denied: bool,
    session_id: UUID | None,
) -> tuple[UUID, str]:
    """Connect the account whose owner agreed: the tenant, and the path to be shown.

    Raises:
        StateRefusedError: nothing was done.
        ConnectRefusedError: nothing is connected that was not before.
    """
    agreed = None if denied else code
    back, state = await use(means, state_text, "oauth", session_id, exchanges=agreed is not None)
    return_to: str = state["return_to"]
    if agreed is None:
        await unpend(means, back, state["actor"])
        raise ConnectRefusedError("connect_denied", return_to)
    try:
        account_id, live, health = await _exchange(means, back, agreed)
    except (StripeAwayError, NotConfiguredError):
        # What Stripe did is not known: `connect_leftovers` sees to it.
        await unpend(means, back, state["actor"])
        raise ConnectRefusedError("stripe_unavailable", return_to) from None
    except StripeError:
        await unpend(means, back, state["actor"])
        raise ConnectRefusedError("connect_code_refused", return_to) from None
    refusal, unwanted = None, False
    if live != (back.mode == "live"):
        refusal, unwanted = "connect_wrong_mode", True
    elif account_id == await means.stripe.platform_account():
        refusal = "connect_platform_account"
    else:
        async with means.database.tenant(back.tenant_id, back.mode) as tx:
            refusal, unwanted = await _accept(tx, state, health, utc_now())
            if refusal is None:
                await store.settle(tx, back.digest)
    if refusal is not None:
        if not unwanted or await _give_back(means, back.mode, account_id):
            await _settle(means, back)
        await unpend(means, back, state["actor"])
        raise ConnectRefusedError(refusal, return_to)
    return back.tenant_id, return_to


async def _exchange(means: Means, back: WayBack, code: str) -> tuple[str, bool, Health]:
    """The account that a code stands for, whether it is live, and its health.

    The account is kept with the state before anything else: whatever ends this process afterwards,
    somebody knows of the access that Stripe has given.

    Raises:
        StripeError, NotConfiguredError: see their kinds.
    """
    try:
        account_id, live = await means.stripe.exchange_code(back.mode, code)
    except StripeAwayError:
        raise
    except (StripeError, NotConfiguredError):
        await _settle(means, back)
        raise
    async with means.database.tenant(back.tenant_id, back.mode) as tx:
        await store.keep_exchanged(tx, back.digest, account_id)
    return account_id, live, await means.stripe.connected_account(back.mode, account_id)


async def _settle(means: Means, back: WayBack) -> None:
    async with means.database.tenant(back.tenant_id, back.mode) as tx:
        await store.settle(tx, back.digest)


async def _accept(tx: Tx, state: Row, health: Health, at: datetime) -> tuple[str | None, bool]:
    """Connect the account, or say why not, and whether the access is then to be given back."""
    await store_tenants.lock_tenant(tx)
    row = await store.find_connection(tx)
    assert row is not None, "starting entered it"
    known = row["account_id"] if row["connected_at"] is not None else None
    moved = known is not None and known != health.account_id
    had_before = await store.has_account(tx, health.account_id)
    if not await store.claim_account(tx, health.account_id):
        return "stripe_account_taken", False
    if not await _may_connect(tx, state["actor"], at):
        if not had_before:
            await store.release_account(tx, health.account_id)
        # Giving back what is in use would end the connection that is there.
        in_use = row["status"] == "CONNECTED" and row["account_id"] == health.account_id
        return "connect_not_permitted", not in_use
    if moved and not state["confirm_account_change"]:
        if not had_before:
            await store.release_account(tx, health.account_id)
        return "stripe_account_differs", True
    values: dict[str, Any] = {
        "kind": "CONNECT_STANDARD",
        "status": "CONNECTED",
        "is_active": True,
        "limited": False,
        "publishable_key": None,
        "key_valid": True,
        "key_failure": None,
        "key_checked_at": at,
        "key_check_due_at": at + raw_keys.CHECK_EVERY,
        "webhook_state": "none",
        "webhook_failure": None,
        "webhook_due_at": None,
        "webhook_endpoint_id": None,
        "webhook_token_hashes": [],
        "account_since": row["account_since"] if _is_same(row, health) else at,
        "connected_at": at,
        "pending_since": None,
        "revoked_at": None,
    }
    # Connect needs no key of the tenant's: what was kept goes.
    taken = await store_secrets.archive(
        tx, row["connection_id"], at=at, states=("current", "previous")
    )
    await store.update_connection(tx, at, **(values | raw_keys.health_values(health, at)))
    if taken:
        await secrets.publish_secrets(tx, at)
    await connection_states.tell(tx, "stripe_connection.connected", row, state["actor"], at)
    await snapshot.publish(tx, at)
    return None, False


def _is_same(row: Row, health: Health) -> bool:
    """Whether the account was connected by Connect already: it is the same connection, renewed."""
    by_connect = row["kind"] != "RAW_KEYS" and row["status"] == "CONNECTED"
    return bool(by_connect and row["account_id"] == health.account_id)


async def _may_connect(tx: Tx, actor: str, at: datetime) -> bool:
    """Whether who began may still manage billing: a session outlives a place in the tenant."""
    has_now = await authority.find_giver(tx, actor, tx.mode, at)
    return has_now is not None and has_now.has("billing:manage")


async def _give_back(means: Means, mode: Mode, account_id: str) -> bool:
    """Give up an access that was granted and is not taken; False: not now, so it is left over."""
    try:
        await means.stripe.deauthorize(mode, account_id)
    except (StripeError, NotConfiguredError) as error:
        log.warning("unwanted_access_not_given_back", account=account_id, error=str(error))
        return False
    return True


async def disconnect(
    means: Means, tenant_id: UUID, mode: Mode, actor: str, *, release_account: bool
) -> None:
    """End the connection, at Stripe first; done already: nothing.

    Args:
        release_account: let another tenant connect the account; its history stays here.

    Raises:
        NotConnectedError: there never was one.
        StripeAwayError, NotConfiguredError: nothing was done.
        ChangedMeanwhileError: it was made anew or given other keys meanwhile, and stays so.
    """
    async with means.database.tenant(tenant_id, mode) as tx:
        row = await store.find_connection(tx)
        if row is None or row["status"] == "NOT_CONNECTED":
            raise NotConnectedError
        key = await store_secrets.find_current(tx, row["connection_id"], "stripe_secret_key")
    if row["status"] in ("CONNECTED", "PENDING"):
        await _leave(means, row, key)
    async with means.database.tenant(tenant_id, mode) as tx:
        now = utc_now()
        await store_tenants.lock_tenant(tx)
        seen, row = row, await store.find_connection(tx)
        assert row is not None, "a connection is never deleted"
        seen_key = key
        key = await store_secrets.find_current(tx, row["connection_id"], "stripe_secret_key")
        ended = row["status"] == "REVOKED"
        if row["account_id"] != seen["account_id"] or (
            not ended and _identity(row, key) != _identity(seen, seen_key)
        ):
            raise ChangedMeanwhileError
        if not ended:
            await connection_states.revoke(tx, row, actor, now)
        if release_account:
            await store.release_accounts(tx)
            await store.update_connection(tx, now, account_id=None)
            await connection_states.tell(tx, "stripe_connection.released", row, actor, now)
            await snapshot.publish(tx, now)


def _identity(row: Row, key: Row | None) -> tuple[Any, ...]:
    """What makes a connection the one that was seen; its health and its checks may change."""
    names = ("kind", "status", "connected_at", "pending_since", "webhook_endpoint_id")
    return (*(row[name] for name in names), key and key["secret_id"])


async def _leave(means: Means, row: Row, key: Row | None) -> None:
    """Tell Stripe; that it knows already, or does not let us, is no reason to stay."""
    try:
        if row["kind"] == "RAW_KEYS":
            if row["webhook_endpoint_id"] is not None:
                identity = await means.identity_of(row, key)
                await means.stripe.remove_webhooks(identity, webhooks.metadata_of(row))
        elif row["account_id"] is not None:
            await means.stripe.deauthorize(row["mode"], row["account_id"])
    except StripeAwayError:
        raise
    except StripeError as error:
        log.info("disconnected_at_stripe_already", code=error.code)
