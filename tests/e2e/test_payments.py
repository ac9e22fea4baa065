"""Money in a real browser: connected, paid, given back, replayed, and what did not reach the bank."""

import re
from typing import Any

import httpx
import pytest

from cli.api import Api
from cli.story import Story
from tests.e2e.conftest import Owner, Watched

pytestmark = [pytest.mark.browser, pytest.mark.flow]

CARD = "4242 4242 4242 4242"
SCOPES = ["billing:read", "billing:manage"]
APPEARS_LOOKS = 240
"""Four in a second: what comes by webhooks gets the minute that every caller of the API waits."""
PAGES = ("/payments", "/payouts", "/disputes", "/webhooks", "/webhooks/replays")


async def sandbox(owner: Owner, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a payer, a bank or an account's owner does at the sandbox."""
    async with httpx.AsyncClient(
        base_url=owner.environment["STRIPE_SIM_URL"], timeout=60
    ) as client:
        answer = await client.post(f"/_sim{path}", json=body or {})
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
async def api(owner: Owner, played_story: Story) -> Api:
    """The tenant's own programs."""
    key, version = await make_key(owner, played_story.origin)
    mine = Api(played_story.origin, key)
    mine.read_after(version)
    return mine


async def make_key(owner: Owner, origin: str) -> tuple[str, str | None]:
    """An API key of the tenant, and the tenant's version from which it is known."""
    operator = Api(origin, owner.environment["SLUICE_OPERATOR_KEY"])
    wish = {"tenant": owner.slug, "name": "e2e", "scopes": SCOPES, "mode": "test"}
    made = await operator.post("/api/v1/api-keys", wish)
    await operator.close()
    return made["key"], operator.version


async def connected(owner: Owner, api: Api) -> str:
    """The tenant's own account, connected by OAuth on Stripe's page, as its programs find it."""
    page = owner.page
    account = await owner.sandbox_account("E2e")
    await owner.see("/settings/stripe")
    await page.get_by_role("button", name="Connect with Stripe").click()
    await page.wait_for_url("**/oauth/authorize**")
    await page.get_by_role("radio", name=account["id"]).check()
    await page.get_by_role("button", name="Connect my Stripe account").click()
    await page.wait_for_url("**/settings/stripe?**connect=connected")
    # A later version of the tenant has the connection in it.
    _, version = await make_key(owner, api_origin(owner))
    api.read_after(version)
    return account["id"]


async def appears(watched: Watched, path: str, text: str) -> str:
    """A page that shows a text before long; what else it shows."""
    for _ in range(APPEARS_LOOKS):
        shown = await watched.see(path)
        if text in shown:
            return shown
        await watched.page.wait_for_timeout(250)
    raise AssertionError(f"{path} does not show {text!r}:\n{shown}")


async def pay_here(owner: Owner) -> None:
    """Fill in the hosted page that is open, and pay."""
    page = owner.page
    await page.get_by_label("Card number").fill(CARD)
    await page.locator("button[name=pay]").click()


async def test_an_account_is_connected_and_the_first_webhook_turns_the_badge_green(
    owner: Owner, api: Api
):
    page = owner.page
    account = await connected(owner, api)
    await page.wait_for_load_state()
    if await page.locator(".badge.waiting", has_text="no webhook received yet").count():
        await sandbox(owner, f"/accounts/{account}", {"ready": True})
    # The page renews its badges by itself.
    await page.wait_for_selector(".badge.good:has-text('last webhook received')")
    assert f"Connected to Stripe: {account}" in await page.inner_text("main")


async def test_a_plan_is_bought_on_the_hosted_page_and_the_portal_shows_it(
    owner: Owner, api: Api, played_story: Story
):
    page = owner.page
    plan = {"plan": played_story.named("pro")}
    session = await api.post("/api/v1/billing/checkout", plan)
    await page.goto(session["url"])
    await pay_here(owner)
    await page.wait_for_url(re.compile(r"/invoices\?checkout=success"))
    await appears(owner.watched, "/invoices", "paid")
    shown = await appears(owner.watched, "/payments", "completed")
    assert "platform" in shown
    await page.locator("tbody th a").first.click()
    text = await page.inner_text("main")
    assert "Paid." in text
    assert "the platform's" in text
    async with page.context.expect_page() as coming:
        await page.evaluate("open(document.querySelector('a[href*=receipts]').href)")
    receipt = await coming.value
    assert "receipt" in (await receipt.inner_text("body")).lower()
    await receipt.close()

    portal = await api.post(
        "/api/v1/billing/portal", {"return_url": f"{api_origin(owner)}/tenants"}
    )
    await page.goto(portal["url"])
    assert "Renews on" in await page.inner_text("body")
    await page.get_by_role("button", name="Cancel the subscription").click()
    assert await page.get_by_role("button", name="Keep the subscription").is_visible()
    await appears(owner.watched, f"/tenants/{owner.slug}", "ends with the period")


def api_origin(owner: Owner) -> str:
    return owner.environment["SLUICE_ORIGIN"]


async def test_a_payment_link_is_paid_refunded_and_its_payout_fails(owner: Owner, api: Api):
    page = owner.page
    account = await connected(owner, api)
    wish = {"name": "Ticket", "amount": {"amount_minor": 4_200, "currency": "EUR"}}
    link = await api.post("/api/v1/payment-links", wish)
    await page.goto(link["url"])
    assert "Ticket" in await page.inner_text("body")
    await pay_here(owner)
    await page.wait_for_selector("text=Thank you")

    shown = await appears(owner.watched, "/payments", "payment link")
    assert "42.00 EUR" in shown
    await page.locator("tbody th a").first.click()
    assert account in await page.inner_text("main")
    await page.get_by_text("Give back").first.click()
    await page.get_by_label("Amount in EUR").fill("2,00")
    await page.get_by_label("The money goes back").check()
    owner.watched.expected = {
        re.sub(r"\?.*", "", page.url).removeprefix(api_origin(owner)) + "/refund"
    }
    await page.get_by_role("button", name="Give back").click()
    assert "must be written in EUR" in await page.get_by_role("alert").inner_text()
    await page.get_by_label("Amount in EUR").fill("2.00")
    await page.get_by_label("The money goes back").check()
    await page.get_by_role("button", name="Give back").click()
    await page.wait_for_url("**done=refund_asked")
    path = page.url.removeprefix(api_origin(owner)).partition("?")[0]
    shown = await appears(owner.watched, path, "partially refunded")
    assert "2.00 EUR" in shown

    await sandbox(owner, f"/accounts/{account}/release")
    payout = await sandbox(owner, f"/accounts/{account}/payout", {"currency": "eur"})
    await sandbox(owner, f"/payouts/{payout['id']}/settle")
    await appears(owner.watched, "/payouts", "paid")
    await sandbox(owner, f"/payouts/{payout['id']}/settle", {"failure": "account_closed"})
    await appears(owner.watched, "/payouts", "The bank account has been closed.")
    failed = page.locator("tr.failed")
    assert payout["id"] in await failed.inner_text()
    red = await failed.locator("th").evaluate("cell => getComputedStyle(cell).color")
    assert red == "rgb(161, 39, 27)"
    assert "did not reach the bank" in await page.get_by_role("alert").inner_text()


async def test_a_dispute_shows_until_when_it_can_be_answered(owner: Owner, api: Api):
    await connected(owner, api)
    wish = {"name": "Ticket", "amount": {"amount_minor": 4_200, "currency": "EUR"}}
    link = await api.post("/api/v1/payment-links", wish)
    page = owner.page
    await page.goto(link["url"])
    await page.get_by_label("Card number").fill("4000 0000 0000 0259")
    await page.locator("button[name=pay]").click()
    await page.wait_for_selector("text=Thank you")
    shown = await appears(owner.watched, "/disputes", "needs response")
    assert "fraudulent" in shown
    await page.get_by_role("link", name="payment", exact=True).click()
    assert "disputed" in await page.inner_text("h1")


async def test_an_event_is_looked_at_and_replayed_from_its_page(owner: Owner, api: Api):
    page = owner.page
    await connected(owner, api)
    link = await api.post(
        "/api/v1/payment-links",
        {"name": "Ticket", "amount": {"amount_minor": 4_200, "currency": "EUR"}},
    )
    await page.goto(link["url"])
    await pay_here(owner)
    await page.wait_for_selector("text=Thank you")
    await appears(owner.watched, "/webhooks?type=payment_intent.succeeded", "pi_")
    await appears(owner.watched, "/payments", "completed")
    await owner.see("/webhooks?type=payment_intent.succeeded")
    await page.locator("tbody th a").first.click()
    text = await page.inner_text("main")
    assert '"type": "payment_intent.succeeded"' in text
    assert "stripe-signature" in text
    await page.get_by_text("Replay", exact=True).click()
    await page.get_by_role("button", name="Try it without effect").click()
    await page.wait_for_url("**/webhooks/replays/**")
    await page.wait_for_selector("[data-settled]")
    text = await page.inner_text("main")
    assert "1 of 1 events" in text
    assert "none differs" in text
    await page.get_by_role("button", name="Replay for real").click()
    await page.wait_for_selector("text=What was new in them")
    assert await page.inner_text("h1") == "Replay"
    shown = await owner.see("/webhooks/replays")
    assert shown.count("1 of 1") == 2
    assert shown.count("dry run") == 1 + shown.lower().count("the dry run compares")
    shown = await owner.see("/payments")
    assert shown.count("42.00 EUR") == 1


async def test_an_event_of_nobody_s_is_given_to_its_tenant(operator: Watched, played_story: Story):
    page, environment = operator.page, played_story.environment
    key = {"Authorization": f"Bearer {environment['STRIPE_SECRET_KEY']}"}
    async with httpx.AsyncClient(
        base_url=environment["STRIPE_SIM_URL"], headers=key, timeout=60
    ) as client:
        made = (await client.post("/v1/customers", data={"name": "Nobody's"})).json()
    path = f"/webhooks?object={made['id']}&assignment=unassigned"
    await appears(operator, path, "customer.created")
    await page.get_by_role("link", name="customer.created").click()
    await page.get_by_text("Give it to its tenant").click()
    await page.get_by_label("Tenant (slug or id)").fill(played_story.named("globex"))
    await page.get_by_role("button", name="Assign").click()
    await page.wait_for_url("**done=event_assigned")
    assert "by an operator" in await page.inner_text("main")
    assert "No event fits" in await operator.see(path)


async def test_pages_of_money_fit_a_narrow_screen(operator: Watched, played_story: Story):
    page, slug = operator.page, played_story.named("acme")
    await page.set_viewport_size({"width": 390, "height": 800})
    await operator.see(f"/payments?tenant={slug}")
    payment = await page.locator("tbody th a").first.get_attribute("href")
    await operator.see(f"/webhooks?tenant={slug}")
    event = await page.locator("tbody th a").first.get_attribute("href")
    paths = [f"{path}?tenant={slug}" for path in PAGES]
    for path in (*paths, *PAGES, str(payment), str(event)):
        await operator.see(path)
        wide = await page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{path} is {wide} pixels wide"
