"""Connecting and disconnecting while processes die, Stripe goes away, or somebody else is quicker."""

from typing import Any
from uuid import UUID

import pytest

from libs.contracts.audit import SecurityEventRaised
from services.tenants import connect, connect_leftovers, connect_states, connection_jobs
from services.tenants.stripe_api import StripeAwayError
from tests.services.tenants.sandbox import PLATFORM_KEY, SDK_WARNING, StripeWorld
from tests.services.tenants.test_connect import DISCONNECT, START, come_back, start, status_of
from tests.services.tenants.test_connect import connect as connect_account

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)


class DiedError(Exception):
    """The process ends here."""


def has_access(stripe_world: StripeWorld, account: str) -> bool:
    """Whether the platform may still act for the account at Stripe."""
    headers = {"authorization": f"Bearer {PLATFORM_KEY}", "stripe-account": account}
    answer = stripe_world.sandbox.client.get("/v1/account", headers=headers)
    return bool(answer.status_code == 200)


async def later(stripe_world: StripeWorld) -> None:
    """The janitor comes when everything that was to be settled is overdue."""
    async with stripe_world.world.database.maintenance() as tx:
        await tx.execute(
            "update connect_state set settle_due_at = now() - interval '1 second' "
            "where settle_due_at is not null"
        )
    await connect_leftovers.run_once(stripe_world.means)
    await stripe_world.world.settle()


async def unsettled(stripe_world: StripeWorld) -> int:
    async with stripe_world.world.database.maintenance() as tx:
        found: int = await tx.fetchval(
            "select count(*) from connect_state where settle_due_at is not null"
        )
    return found


async def test_a_program_begins_no_consent(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    for body in ({}, {"kind": "oauth"}):
        answer = await stripe_world.call("POST", START, key, json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "sign_in_to_connect")
    assert (await status_of(stripe_world, tenant, key))[1] == "NOT_CONNECTED"


async def test_a_state_of_no_session_is_refused(stripe_world: StripeWorld) -> None:
    """One that a program began before programs were refused."""
    _, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    back = stripe_world.sandbox.consent(await start(stripe_world, key), account.id)
    async with stripe_world.world.database.maintenance() as tx:
        await tx.execute("update connect_state set session_id = null")
    answer = await come_back(stripe_world, back)
    assert (answer.status_code, answer.json()["code"]) == (400, "connect_state_refused")


async def test_access_that_nobody_took_is_given_back(
    stripe_world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await stripe_world.tenant("Acme")
    _, others_key = await stripe_world.tenant("Globex")
    account = stripe_world.sandbox.account()
    back = stripe_world.sandbox.consent(await start(stripe_world, key), account.id)

    async def die(*_: Any) -> None:
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(connect, "_accept", die)
        assert (await come_back(stripe_world, back)).status_code == 500
    assert has_access(stripe_world, account.id)
    assert await unsettled(stripe_world) == 1
    await later(stripe_world)
    assert not has_access(stripe_world, account.id)
    assert await unsettled(stripe_world) == 0
    # The account is nobody's: whoever owns it may connect it.
    assert (await connect_account(stripe_world, others_key, account.id)).status_code == 303


async def test_what_was_connected_after_all_stays(
    stripe_world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    _, others_key = await stripe_world.tenant("Globex")
    account = stripe_world.sandbox.account()

    async def die(*_: Any) -> None:
        raise DiedError

    for each in (key, others_key):
        back = stripe_world.sandbox.consent(await start(stripe_world, each), account.id)
        with monkeypatch.context() as patch:
            patch.setattr(connect, "_accept", die)
            assert (await come_back(stripe_world, back)).status_code == 500
    assert (await connect_account(stripe_world, key, account.id)).status_code == 303
    await later(stripe_world)
    assert has_access(stripe_world, account.id)
    assert (await status_of(stripe_world, tenant, key))[:2] == (account.id, "CONNECTED")
    assert await unsettled(stripe_world) == 0


async def test_stripe_away_while_giving_back_is_tried_again(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    back = stripe_world.sandbox.consent(await start(stripe_world, key), account.id)
    stripe_world.sandbox.fault(kind="cut", method="GET", path="/v1/account")
    answer = await come_back(stripe_world, back)
    assert answer.json()["code"] == "stripe_unavailable"
    stripe_world.sandbox.mend()
    addresses = stripe_world.means.stripe._addresses
    reached, addresses["connect"] = addresses["connect"], "http://127.0.0.1:1"
    await later(stripe_world)
    assert (has_access(stripe_world, account.id), await unsettled(stripe_world)) == (True, 1)
    addresses["connect"] = reached
    await later(stripe_world)
    assert (has_access(stripe_world, account.id), await unsettled(stripe_world)) == (False, 0)


async def test_an_answer_that_never_came_is_told_of(
    stripe_world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    back = stripe_world.sandbox.consent(await start(stripe_world, key), account.id)
    exchange = stripe_world.means.stripe.exchange_code

    async def lose_the_answer(*parts: Any) -> None:
        await exchange(*parts)
        raise StripeAwayError("timeout", None)

    monkeypatch.setattr(stripe_world.means.stripe, "exchange_code", lose_the_answer)
    answer = await come_back(stripe_world, back)
    assert answer.json()["code"] == "stripe_unavailable"
    await later(stripe_world)
    told = stripe_world.world.log.events(SecurityEventRaised)
    kinds = [event.data.kind for event in told if event.data.kind == connect_leftovers.IN_DOUBT]
    assert kinds == [connect_leftovers.IN_DOUBT]
    assert await unsettled(stripe_world) == 0


async def test_states_that_are_not_settled_are_kept(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    await start(stripe_world, key)
    async with stripe_world.world.database.maintenance() as tx:
        await tx.execute(
            "update connect_state set expires_at = now() - interval '2 days', settle_due_at = now()"
        )
    await connection_jobs.expire_starts(stripe_world.means)
    assert await unsettled(stripe_world) == 1
    assert connect_states.SETTLE_WITHIN.total_seconds() >= 60


@pytest.mark.parametrize("how", ["another_account", "another_key"])
async def test_what_was_made_anew_meanwhile_is_not_ended(
    stripe_world: StripeWorld, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    first, second = stripe_world.sandbox.account(), stripe_world.sandbox.account()
    await stripe_world.configure(key, stripe_secret_key=first.secret_key)
    leave = connect._leave

    async def leave_slowly(*parts: Any) -> None:
        await leave(*parts)
        monkeypatch.setattr(connect, "_leave", leave)
        new = stripe_world.sandbox.key(first.id) if how == "another_key" else second.secret_key
        answer = await stripe_world.configure(
            key, stripe_secret_key=new, confirm_account_change=True
        )
        assert answer.status_code == 200, answer.text

    monkeypatch.setattr(connect, "_leave", leave_slowly)
    answer = await stripe_world.call("POST", DISCONNECT, key)
    assert (answer.status_code, answer.json()["code"]) == (409, "connection_changed")
    expected = second.id if how == "another_account" else first.id
    assert (await status_of(stripe_world, tenant, key))[:2] == (expected, "CONNECTED")
    assert len(stripe_world.secrets(tenant).secrets) >= 1
    assert (await stripe_world.call("POST", DISCONNECT, key)).status_code == 200
    assert (await stripe_world.connection(str(UUID(tenant))))["status"] == "REVOKED"


async def test_an_account_made_too_late_takes_the_place_of_nothing(
    stripe_world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    own = stripe_world.sandbox.account()
    create = stripe_world.means.stripe.create_account

    async def create_slowly(*parts: Any, **named: Any) -> Any:
        made = await create(*parts, **named)
        answer = await stripe_world.configure(key, stripe_secret_key=own.secret_key)
        assert answer.status_code == 200, answer.text
        return made

    monkeypatch.setattr(stripe_world.means.stripe, "create_account", create_slowly)
    answer = await stripe_world.call("POST", START, key, json={"kind": "account_link"})
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_differs")
    assert (await status_of(stripe_world, tenant, key))[:2] == (own.id, "CONNECTED")


async def test_a_limited_key_is_not_believed_to_be_of_the_account_being_onboarded(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    own = stripe_world.sandbox.account()
    await start(stripe_world, key, kind="account_link")
    narrow = stripe_world.sandbox.key(own.id, "restricted", ["customers:read"])
    answer = await stripe_world.configure(key, stripe_secret_key=narrow)
    assert (answer.status_code, answer.json()["limited"]) == (200, True), answer.text
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert (told.kind, told.account_id, told.charges_enabled) == ("RAW_KEYS", None, False)
    row = await stripe_world.connection(tenant)
    assert (row["account_id"], row["health_at"]) == (None, None)
