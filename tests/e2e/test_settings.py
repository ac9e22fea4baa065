"""The pages behind Settings in a real browser, on a running stack with the sandbox as Stripe."""

from collections.abc import AsyncGenerator

import httpx
import pytest
from playwright.async_api import Browser

from cli.api import eventually
from cli.story import Story
from tests.e2e.conftest import PASSWORD, Owner, Watched, accept

pytestmark = [pytest.mark.browser, pytest.mark.flow]

PAGES = (
    "/settings",
    "/settings/stripe",
    "/settings/members",
    "/settings/teams",
    "/settings/api-keys",
    "/settings/configuration",
    "/settings/configuration/billing",
    "/settings/account",
    "/audit",
    "/audit/verification",
)


@pytest.fixture
async def second(chromium: Browser, played_story: Story) -> AsyncGenerator[Watched, None]:
    """Another browser that is not signed in."""
    origin = played_story.environment["SLUICE_ORIGIN"]
    async with await chromium.new_context(base_url=origin) as context:
        context.set_default_timeout(60_000)
        watched = Watched(await context.new_page())
        watched.start()
        yield watched
        assert watched.errors == []
        assert watched.foreign == []


async def test_keys_of_one_s_own_account_are_proved_kept_and_rotated(owner: Owner):
    page = owner.page
    account = await owner.sandbox_account("Acme")
    assert "Not connected to Stripe" in await owner.see("/settings/stripe")
    owner.watched.expected = {"/settings/stripe/keys"}
    await page.get_by_text("Enter keys instead").click()
    await page.get_by_label("Secret key").fill("sk_test_nobody_has_this_key")
    await page.get_by_role("button", name="Try and keep the keys").click()
    assert await page.get_by_role("alert").inner_text()
    assert "Not connected to Stripe" in await page.inner_text("main")

    await page.get_by_label("Secret key").fill(account["secret_key"])
    await page.get_by_label("Publishable key").fill(account["publishable_key"])
    await page.get_by_role("button", name="Try and keep the keys").click()
    await page.wait_for_selector("text=The keys work and are kept")
    assert account["id"] in await page.inner_text("main")
    await page.get_by_role("link", name="To the connection").click()
    text = await page.inner_text("main")
    assert f"Connected to Stripe: {account['id']}" in text
    assert "charges enabled" in text
    assert "key valid" in text
    assert "webhook registered" in text
    assert account["secret_key"][-4:] in text
    assert account["secret_key"] not in await page.content()

    async with httpx.AsyncClient(
        base_url=owner.environment["STRIPE_SIM_URL"], timeout=60
    ) as sandbox:
        rolled = await sandbox.post(f"/_sim/accounts/{account['id']}/keys", json={"kind": "secret"})
        rolled.raise_for_status()
    await page.get_by_text("Rotate keys").click()
    await page.get_by_label("Secret key").fill(rolled.json()["key"])
    await page.get_by_role("button", name="Try and keep the new keys").click()
    await page.wait_for_selector("text=The keys work and are kept")
    assert "Revoke the old key" in await page.inner_text("main")
    text = await owner.see("/settings/stripe")
    assert "version 2" in text
    assert "Previous key" in text

    await page.get_by_text("Switch off").first.click()
    await page.get_by_role("button", name="Switch off").click()
    await page.wait_for_url("**done=stripe_off")
    assert "switched off" in await page.inner_text("main")


async def test_an_account_is_connected_on_stripe_s_page_and_disconnected(owner: Owner):
    page = owner.page
    account = await owner.sandbox_account("Acme by Connect")
    await owner.see("/settings/stripe")
    await page.get_by_role("button", name="Connect with Stripe").click()
    await page.wait_for_url("**/oauth/authorize**")
    await page.get_by_role("radio", name=account["id"]).check()
    await page.get_by_role("button", name="Connect my Stripe account").click()
    await page.wait_for_url("**/settings/stripe?**connect=connected")
    text = await page.inner_text("main")
    assert "The account is connected." in text
    assert f"Connected to Stripe: {account['id']}" in text
    await page.get_by_text("Disconnect", exact=True).first.click()
    await page.get_by_label("Disconnect the account, at Stripe and here").check()
    await page.get_by_role("button", name="Disconnect").click()
    await page.wait_for_url("**done=stripe_disconnected")
    assert "Disconnected from Stripe" in await page.inner_text("main")


async def test_a_key_is_made_used_rotated_and_revoked(owner: Owner):
    page = owner.page
    await owner.see("/settings/api-keys")
    await page.get_by_label("Name").fill("Shop backend")
    await page.get_by_label("tenants:read").check()
    await page.get_by_role("button", name="Make the key").click()
    first = await page.locator(".secret code").inner_text()
    await is_answered(owner, first, 200)

    await page.get_by_role("link", name="back to all keys").click()
    assert first not in await page.content()
    await page.get_by_text("Rotate").first.click()
    await page.get_by_role("button", name="Make the new key").click()
    successor = await page.locator(".secret code").inner_text()
    assert successor != first
    assert await status_with(owner, first) == 200
    await is_answered(owner, successor, 200)
    await page.reload()
    assert await page.locator(".secret code").inner_text() == successor, "not a third one"

    text = await owner.see("/settings/api-keys")
    assert "being replaced" in text
    old = page.locator("article", has_text="being replaced")
    await old.get_by_text("Revoke").first.click()
    await old.get_by_label("Reason").fill("it is rotated")
    await old.get_by_label("Nothing needs this key any more").check()
    await old.get_by_role("button", name="Revoke for good").click()
    await page.wait_for_url("**done=key_revoked")
    ended = await page.locator("section", has_text="Revoked and expired keys").inner_text()
    assert "it is rotated" in ended
    await is_answered(owner, first, 401)
    assert await status_with(owner, successor) == 200


async def is_answered(owner: Owner, key: str, status: int) -> None:
    """Wait until the API answers so to a key; that it was just made or revoked may be on its way."""

    async def so() -> bool:
        return await status_with(owner, key) == status

    await eventually(f"the answer {status}", so)


async def status_with(owner: Owner, key: str) -> int:
    """What the API answers to a key."""
    async with httpx.AsyncClient(base_url=owner.environment["SLUICE_ORIGIN"], timeout=60) as client:
        answer = await client.get(
            f"/api/v1/tenants/{owner.slug}", headers={"Authorization": f"Bearer {key}"}
        )
    return answer.status_code


async def test_somebody_is_invited_accepts_and_gets_another_role(owner: Owner, second: Watched):
    page = owner.page
    await owner.see("/settings/members")
    guest = f"guest@{owner.slug}.example"
    await page.get_by_label("E-mail").fill(guest)
    await page.get_by_role("button", name="Make the invitation").click()
    link = await page.locator(".secret code").inner_text()
    await accept(second, link, "a password of the guest's")
    assert owner.slug.title() in await second.page.inner_text("main")

    second.expected = {"/settings/members", "/invitation"}
    answer = await second.page.goto("/settings/members")
    assert answer is not None
    assert answer.status == 403
    assert "members:manage" in await second.page.inner_text("main")

    text = await owner.see("/settings/members")
    assert guest in text
    row = page.locator("article", has_text=guest)
    await row.get_by_text("Change").first.click()
    await row.get_by_label("Role").select_option("admin")
    await row.get_by_role("button", name="Save").click()
    await page.wait_for_url("**done=member_changed")
    await second.see("/settings/members")

    await second.page.goto(link)
    await second.page.get_by_role("button", name="Accept as").click()
    assert "not valid" in await second.page.get_by_role("alert").inner_text()


async def test_the_audit_log_is_searched_and_taken_out(owner: Owner):
    page = owner.page
    await owner.see("/settings/teams")
    await page.get_by_label("Name").fill("Night shift")
    await page.get_by_role("button", name="Make the team").click()
    await page.wait_for_url("**done=team_made")
    await owner.see("/audit")
    # An entry comes to the log by way of Kafka: a minute, as for every caller of the API.
    for _ in range(240):
        await page.get_by_label("Text").fill("Night shift")
        await page.get_by_role("button", name="Search").click()
        if "team.created" in await page.inner_text("main"):
            break
        await page.wait_for_timeout(250)
    text = await page.inner_text("main")
    assert "team.created" in text
    assert "Night shift" in text
    assert "invitation.accepted" not in text
    async with page.expect_download() as coming:
        await page.get_by_role("link", name="CSV").click()
    lines = (await (await coming.value).path()).read_text().splitlines()
    assert len(lines) == 2
    assert "team.created" in lines[1]
    await page.get_by_label("Text").fill("there is no such thing")
    await page.get_by_role("button", name="Search").click()
    assert "No entry fits" in await page.inner_text("main")
    assert "hold: none was altered" in await owner.see("/audit/verification")


async def test_settings_are_saved_and_a_conflict_is_told(owner: Owner):
    page = owner.page
    path = "/settings/configuration/billing"
    await owner.see(path)
    other = await page.context.new_page()
    await other.goto(path)
    await page.get_by_label("JSON").fill('{"net_terms_days": 7}')
    await page.get_by_role("button", name="Save").click()
    await page.wait_for_url("**done=configuration_saved")
    assert "net_terms_days = 7" in await page.inner_text("main")
    await other.get_by_label("JSON").fill('{"net_terms_days": 99}')
    await other.get_by_role("button", name="Save").click()
    assert "Somebody else changed" in await other.get_by_role("alert").inner_text()
    assert await other.get_by_label("JSON").input_value() == '{"net_terms_days": 99}'
    await other.get_by_role("button", name="Save").click()
    await other.wait_for_url("**done=configuration_saved")


async def sign_in(watched: Watched, email: str, password: str) -> None:
    page = watched.page
    await page.goto("/login")
    await page.fill("#email", email)
    await page.fill("#password", password)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/tenants")


async def test_other_sessions_end_at_once_with_the_password_or_by_hand(
    owner: Owner, second: Watched
):
    page = owner.page
    await sign_in(second, owner.email, PASSWORD)
    await owner.see("/settings/account")
    await page.get_by_label("Present password").fill(PASSWORD)
    await page.get_by_label("New password").first.fill("another long password")
    await page.get_by_label("The new password again").fill("another long password")
    await page.get_by_role("button", name="Change it").click()
    await page.wait_for_url("**done=password_changed")
    await second.page.goto("/tenants")
    assert "/login" in second.page.url

    await sign_in(second, owner.email, "another long password")
    await owner.see("/settings/account")
    await page.get_by_role("button", name="Sign out everywhere else").click()
    await page.wait_for_url("**done=sessions_ended")
    await second.page.goto("/tenants")
    assert "/login" in second.page.url


async def test_pages_fit_a_narrow_screen(owner: Owner):
    page = owner.page
    await page.set_viewport_size({"width": 390, "height": 800})
    for path in PAGES:
        await owner.see(path)
        wide = await page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{path} is {wide} pixels wide"
