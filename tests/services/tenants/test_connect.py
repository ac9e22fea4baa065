"""Connect: OAuth and account links, ways back that are good once, and disconnecting from both sides."""

from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from libs.clock import utc_now
from libs.contracts.stripe_accounts import StripeAccountDeauthorized
from libs.ids import public_id
from services.tenants import connect_states
from tests.services.tenants.conftest import ORIGIN
from tests.services.tenants.persons import signed_in
from tests.services.tenants.sandbox import CONFIG, PLATFORM_KEY, SDK_WARNING, StripeWorld, query_of

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)

START, CALLBACK = "/api/v1/connect/start", "/api/v1/connect/callback"
DISCONNECT = "/api/v1/connect/disconnect"


async def start(stripe_world: StripeWorld, key: str, **body: object) -> str:
    """Begin; where the owner is sent to."""
    if body.get("kind") == "account_link":
        answer = await stripe_world.call("POST", START, key, json=body)
    else:
        answer = await stripe_world.start_oauth(key, **body)
    assert answer.status_code == 200, answer.text
    url: str = answer.json()["url"]
    return url


async def come_back(stripe_world: StripeWorld, url: str, **headers: str) -> httpx.Response:
    """The browser follows Stripe's redirect."""
    parts = urlsplit(url)
    assert url.startswith(ORIGIN + "/"), url
    answer = await stripe_world.world.client.get(f"{parts.path}?{parts.query}", headers=headers)
    await stripe_world.world.settle()
    return answer


async def connect(
    stripe_world: StripeWorld, key: str, account: str, **body: object
) -> httpx.Response:
    url = await start(stripe_world, key, **body)
    return await come_back(stripe_world, stripe_world.sandbox.consent(url, account))


async def status_of(
    stripe_world: StripeWorld, tenant: str, key: str
) -> tuple[str | None, str, str | None]:
    body = (await stripe_world.call("GET", f"/api/v1/tenants/{tenant}", key)).json()
    return body["stripe_account_id"], body["stripe_onboarding_status"], body["stripe_account_type"]


async def test_a_standard_account_is_connected_by_oauth(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    assert await status_of(stripe_world, tenant, key) == (None, "NOT_CONNECTED", None)
    account = stripe_world.sandbox.account()
    url = await start(stripe_world, key)
    query = query_of(url)
    assert (query["scope"], query["response_type"]) == ("read_write", "code")
    assert query["redirect_uri"] == ORIGIN + CALLBACK
    assert await status_of(stripe_world, tenant, key) == (None, "PENDING", "CONNECT_STANDARD")
    answer = await come_back(stripe_world, stripe_world.sandbox.consent(url, account.id))
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == f"{ORIGIN}/settings/stripe?connect=connected"
    expected = (account.id, "CONNECTED", "CONNECT_STANDARD")
    assert await status_of(stripe_world, tenant, key) == expected
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert (told.account_id, told.credential_version, told.charges_enabled) == (account.id, 0, True)
    assert told.account_since is not None
    # Tokens are dropped: there is no secret to tell.
    assert await stripe_world.rows(tenant) == []


async def test_a_state_is_good_once_for_its_tenant_and_not_for_long(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    back = stripe_world.sandbox.consent(await start(stripe_world, key), account.id)
    state = query_of(back)["state"]
    other, _ = await stripe_world.tenant("Globex")
    forged = state.replace(UUID(tenant).hex, UUID(other).hex)
    for bad in (forged, state[:-1], "", "test", "a.b.c", "x" * 201, "test." + "z" * 32 + ".é"):
        answer = await stripe_world.world.client.get(
            CALLBACK, params={"state": bad, "code": "ac_1"}
        )
        assert 400 <= answer.status_code < 500, bad
    assert (await come_back(stripe_world, back)).status_code == 303
    answer = await come_back(stripe_world, back)
    assert (answer.status_code, answer.json()["code"]) == (400, "connect_state_refused")
    # A browser is shown the page.
    answer = await come_back(stripe_world, back, Accept="text/html,*/*")
    assert answer.headers["location"].endswith("/settings/stripe?connect=connect_state_refused")

    late = stripe_world.sandbox.consent(await start(stripe_world, key), account.id)
    async with stripe_world.world.database.maintenance() as tx:
        await tx.execute("update connect_state set expires_at = now() - interval '1 second'")
    assert (await come_back(stripe_world, late)).json()["code"] == "connect_state_refused"
    assert connect_states.OAUTH_LIFE.total_seconds() == 600


async def test_only_hashes_of_states_are_kept(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    state = query_of(await start(stripe_world, key))["state"]
    async with stripe_world.world.database.tenant(UUID(tenant), "test") as tx:
        rows = await tx.fetch("select to_jsonb(s)::text from connect_state s")
    assert state.rpartition(".")[2] not in str(rows)


async def test_a_state_of_a_session_wants_that_session(stripe_world: StripeWorld) -> None:
    client, world = stripe_world.world.client, stripe_world.world
    await world.sign_up("Acme")
    signed_in = await client.post(
        "/api/v1/session",
        json={"email": "operator@example.com", "password": "correct horse battery"},
        headers={"Origin": ORIGIN},
    )
    assert signed_in.status_code == 201, signed_in.text
    made = await client.post("/api/v1/session/assertion", json={}, headers={"Origin": ORIGIN})
    headers = {"Authorization": f"Bearer {made.json()['assertion']}", "X-Tenant-ID": "acme"}
    account = stripe_world.sandbox.account()
    urls = [(await client.post(START, json={}, headers=headers)).json()["url"] for _ in range(2)]
    backs = [stripe_world.sandbox.consent(url, account.id) for url in urls]
    cookies = dict(client.cookies)
    client.cookies.clear()
    answer = await come_back(stripe_world, backs[0])
    assert (answer.status_code, answer.json()["code"]) == (400, "connect_state_refused")
    client.cookies.update(cookies)
    assert (await come_back(stripe_world, backs[1])).status_code == 303


async def test_who_says_no_is_not_connected(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    url = await start(stripe_world, key)
    answer = await come_back(stripe_world, stripe_world.sandbox.consent(url, account.id, "deny"))
    assert (answer.status_code, answer.json()["code"]) == (400, "connect_denied")
    assert await status_of(stripe_world, tenant, key) == (None, "NOT_CONNECTED", "CONNECT_STANDARD")
    state = query_of(await start(stripe_world, key))["state"]
    params = {"state": state, "code": "ac_forged"}
    answer = await stripe_world.world.client.get(CALLBACK, params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, "connect_code_refused")


async def test_an_account_of_another_tenant_is_refused(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    other, others_key = await stripe_world.tenant("Globex")
    account = stripe_world.sandbox.account()
    assert (await connect(stripe_world, key, account.id)).status_code == 303
    answer = await connect(stripe_world, others_key, account.id)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_taken")
    assert (await status_of(stripe_world, other, others_key))[1] == "NOT_CONNECTED"
    # The first one's connection is not given back at Stripe on the second's behalf.
    headers = {"authorization": f"Bearer {PLATFORM_KEY}", "stripe-account": account.id}
    assert stripe_world.sandbox.client.get("/v1/account", headers=headers).status_code == 200
    assert (await status_of(stripe_world, tenant, key))[1] == "CONNECTED"


async def test_again_keeps_the_account_and_another_wants_a_confirmation(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    first, second = stripe_world.sandbox.account(), stripe_world.sandbox.account()
    await connect(stripe_world, key, first.id)
    connection_id = stripe_world.world.snapshot(tenant).connections[0].connection_id
    assert (await connect(stripe_world, key, first.id)).status_code == 303
    answer = await connect(stripe_world, key, second.id)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_differs")
    assert (await status_of(stripe_world, tenant, key))[:2] == (first.id, "CONNECTED")
    answer = await connect(stripe_world, key, second.id, confirm_account_change=True)
    assert answer.status_code == 303
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert (told.connection_id, told.account_id) == (connection_id, second.id)
    # The account connected before stays the tenant's, also after an attempt that was refused.
    answer = await connect(stripe_world, key, first.id)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_differs")
    _, others_key = await stripe_world.tenant("Globex")
    answer = await connect(stripe_world, others_key, first.id)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_taken")


async def test_connecting_takes_the_place_of_raw_keys(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert (await connect(stripe_world, key, account.id)).status_code == 303
    assert (await status_of(stripe_world, tenant, key))[2] == "CONNECT_STANDARD"
    assert stripe_world.secrets(tenant).secrets == ()
    assert {row["state"] for row in await stripe_world.rows(tenant)} == {"archived"}
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert (told.credential_version, told.webhook_token_hashes) == (0, ())


@pytest.mark.parametrize("account_type", ["standard", "express"])
async def test_an_account_link_makes_and_onboards_an_account(
    stripe_world: StripeWorld, account_type: str
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    body = {"kind": "account_link", "account_type": account_type, "return_to": "/x?tab=1"}
    kind = f"CONNECT_{account_type.upper()}"
    url = await start(stripe_world, key, **body)
    account_id, status, shown_kind = await status_of(stripe_world, tenant, key)
    assert (status, shown_kind) == ("PENDING", kind)
    assert account_id is not None
    # Asked for again, it is the same account.
    url = await start(stripe_world, key, **body)
    assert (await status_of(stripe_world, tenant, key))[0] == account_id
    answer = await come_back(stripe_world, stripe_world.sandbox.onboard(url))
    assert answer.headers["location"] == f"{ORIGIN}/x?tab=1&connect=onboarded"
    assert await status_of(stripe_world, tenant, key) == (account_id, "CONNECTED", kind)
    assert stripe_world.world.snapshot(tenant).connections[0].charges_enabled


async def test_onboarding_begins_with_nothing_of_the_connection_before(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    old = stripe_world.sandbox.account()
    await stripe_world.configure(
        key, stripe_secret_key=old.secret_key, stripe_publishable_key=old.publishable_key
    )
    await stripe_world.call("PATCH", CONFIG, key, json={"is_active": False})
    async with stripe_world.world.database.tenant(UUID(tenant), "test") as tx:
        await tx.execute("update stripe_connection set key_valid = false, key_failure = 'gone'")
    assert (await stripe_world.call("POST", DISCONNECT, key)).status_code == 200
    url = await start(stripe_world, key, kind="account_link", confirm_account_change=True)
    await come_back(stripe_world, stripe_world.sandbox.onboard(url))
    row = await stripe_world.connection(tenant)
    assert (row["status"], row["is_active"], row["key_valid"]) == ("CONNECTED", True, True)
    kept = ("key_failure", "revoked_at", "publishable_key")
    assert [row[name] for name in kept] == [None] * 3
    assert row["account_id"] != old.id
    allowed = await stripe_world.call("GET", "/api/v1/connect/account", key)
    assert allowed.json()["stripe_account_id"] == row["account_id"]


async def test_an_onboarding_address_that_was_used_leads_to_a_new_one(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    url = await start(stripe_world, key, kind="account_link")
    stripe_world.sandbox.onboard(url)
    refresh = stripe_world.sandbox.onboard(url)
    assert refresh.startswith(f"{ORIGIN}/api/v1/connect/refresh?")
    answer = await come_back(stripe_world, refresh)
    assert (answer.status_code, urlsplit(answer.headers["location"]).path.split("/")[1]) == (
        303,
        "connect",
    )
    assert (await come_back(stripe_world, refresh)).json()["code"] == "connect_state_refused"
    again = await come_back(stripe_world, refresh, Accept="text/html")
    assert again.headers["location"].endswith("/settings/stripe?connect=connect_state_refused")
    await come_back(stripe_world, stripe_world.sandbox.onboard(answer.headers["location"]))
    assert (await status_of(stripe_world, tenant, key))[1] == "CONNECTED"


async def test_an_answer_that_was_lost_makes_no_second_account(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    # The account is made, and the connection breaks in the middle of the answer.
    stripe_world.sandbox.fault(kind="cut", method="POST", path="/v1/accounts")
    await stripe_world.call("POST", START, key, json={"kind": "account_link"})
    stripe_world.sandbox.mend()
    await start(stripe_world, key, kind="account_link")
    made = stripe_world.sandbox.client.get(
        "/v1/accounts", headers={"authorization": f"Bearer {PLATFORM_KEY}"}, params={"limit": 100}
    ).json()["data"]
    assert len([each for each in made if each["metadata"].get("tenant_id") == tenant]) == 1


async def test_disconnecting_here_ends_it_at_stripe(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    answer = await stripe_world.call("POST", DISCONNECT, key)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_not_connected")
    await connect(stripe_world, key, account.id)
    answer = await stripe_world.call("POST", DISCONNECT, key)
    assert (answer.status_code, answer.json()["status"]) == (200, "REVOKED"), answer.text
    assert (await stripe_world.call("POST", DISCONNECT, key)).status_code == 200
    assert (await status_of(stripe_world, tenant, key))[:2] == (account.id, "REVOKED")
    headers = {"authorization": f"Bearer {PLATFORM_KEY}", "stripe-account": account.id}
    assert stripe_world.sandbox.client.get("/v1/account", headers=headers).status_code == 403
    # The account stays with its history, unless it is released.
    _, others_key = await stripe_world.tenant("Globex")
    assert (await connect(stripe_world, others_key, account.id)).status_code == 409
    await stripe_world.call("POST", DISCONNECT, key, json={"release_account": True})
    assert (await connect(stripe_world, others_key, account.id)).status_code == 303


async def test_disconnecting_raw_keys_takes_the_webhook_back(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert (await stripe_world.call("POST", DISCONNECT, key)).status_code == 200
    assert stripe_world.sandbox.endpoints(account.secret_key) == []
    assert stripe_world.secrets(tenant).secrets == ()
    # Again, with the same account: its history goes on, no confirmation is asked for.
    answer = await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert (answer.status_code, answer.json()["secret_key"]["version"]) == (200, 2)


async def test_stripe_away_is_not_disconnected(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    await connect(stripe_world, key, account.id)
    stripe_world.world.app.state.means.stripe._addresses["connect"] = "http://127.0.0.1:1"
    answer = await stripe_world.call("POST", DISCONNECT, key)
    assert (answer.status_code, answer.json()["code"]) == (503, "stripe_unavailable")
    assert (await status_of(stripe_world, tenant, key))[1] == "CONNECTED"


async def test_disconnecting_at_stripe_is_followed_once(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    await connect(stripe_world, key, account.id)
    fact = StripeAccountDeauthorized(
        account=account.id,
        stripe_event_id="evt_1",
        deauthorized_at=utc_now().replace(microsecond=0),
    )
    stripe_world.world.tell(tenant, fact, source="stripe_sync")
    await stripe_world.world.settle()
    assert (await status_of(stripe_world, tenant, key))[1] == "REVOKED"
    stripe_world.sandbox.control(f"accounts/{account.id}/disconnect")
    assert (await connect(stripe_world, key, account.id)).status_code == 303
    stripe_world.world.tell(tenant, fact, source="stripe_sync")
    await stripe_world.world.settle()
    assert (await status_of(stripe_world, tenant, key))[1] == "CONNECTED"


@pytest.mark.parametrize(
    "return_to",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "x",
        "http://127.0.0.1:8080.evil.example/",
        "/a\r\nSet-Cookie: a=b",
        "http://127.0.0.1:8080@evil/",
    ],
)
async def test_nobody_is_sent_elsewhere(stripe_world: StripeWorld, return_to: str) -> None:
    _, key = await stripe_world.tenant("Acme")
    answer = await stripe_world.call("POST", START, key, json={"return_to": return_to})
    assert answer.status_code == 422


async def test_starts_are_limited(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    for _ in range(connect_states.STATES_MAX):
        await start(stripe_world, key)
    answer = await stripe_world.start_oauth(key)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")


@pytest.mark.parametrize("lost", ["removed", "demoted"])
async def test_who_lost_the_right_meanwhile_connects_nothing(
    stripe_world: StripeWorld, lost: str
) -> None:
    """The session outlives the place in the tenant, and the way back is bound to the session only."""
    tenant, key = await stripe_world.tenant("Acme")
    theirs, another = stripe_world.sandbox.account(), stripe_world.sandbox.account()
    assert (await connect(stripe_world, key, theirs.id)).status_code == 303
    world = stripe_world.world
    async with signed_in(world, "mallory@acme.example", acme="billing_admin") as person:
        backs = []
        for account in (another, theirs):
            body = {"confirm_account_change": True}
            begun = await person.call("POST", START, "acme", json=body)
            assert begun.status_code == 200, begun.text
            backs.append(stripe_world.sandbox.consent(begun.json()["url"], account.id))
        path = f"/api/v1/members/{public_id('user', await person.user_id())}"
        headers = {"X-Tenant-ID": "acme"}
        if lost == "removed":
            answer = await world.call("DELETE", path, headers=headers)
        else:
            answer = await world.call("PATCH", path, json={"role": "member"}, headers=headers)
        assert answer.is_success, answer.text
        for back in backs:
            parts = urlsplit(back)
            answer = await person.client.get(f"{parts.path}?{parts.query}")
            await world.settle()
            assert (answer.status_code, answer.json()["code"]) == (403, "connect_not_permitted")
    expected = (theirs.id, "CONNECTED", "CONNECT_STANDARD")
    assert await status_of(stripe_world, tenant, key) == expected
    # What was granted is given back, but for the access that the connection lives on.
    for account, status in ((another, 403), (theirs, 200)):
        bearer = {"authorization": f"Bearer {PLATFORM_KEY}", "stripe-account": account.id}
        answer = stripe_world.sandbox.client.get("/v1/account", headers=bearer)
        assert answer.status_code == status
    # The account is free for whoever it belongs to.
    _, others_key = await stripe_world.tenant("Globex")
    assert (await connect(stripe_world, others_key, another.id)).status_code == 303
