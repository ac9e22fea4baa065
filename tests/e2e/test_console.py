"""The console in a real browser, on a stack where the story has been played: the figures are real."""

import pytest

from cli.api import Api
from cli.story import Story
from libs.clock import format_time
from libs.money import Money, format_money
from tests.e2e.conftest import Watched

pytestmark = [pytest.mark.browser, pytest.mark.flow]


def amount(minor: int, story: Story) -> str:
    return format_money(Money(minor, story.terms.currency))


async def test_every_page_leads_to_sign_in_first(stranger: Watched):
    for path in ("/tenants", "/usage", "/invoices", "/invoices/inv_x", "/ledger", "/ops/topics"):
        await stranger.page.goto(path)
        assert "/login" in stranger.page.url
        assert await stranger.page.get_by_label("E-mail").is_visible()


async def test_a_wrong_password_is_told_and_the_right_one_leads_back(
    stranger: Watched, played_story: Story
):
    environment, page = played_story.environment, stranger.page
    stranger.expected = {"/login"}
    await page.goto("/ledger")
    await page.fill("#email", environment["SLUICE_OPERATOR_EMAIL"])
    await page.fill("#password", "not the password")
    await page.keyboard.press("Enter")
    assert "wrong" in await page.get_by_role("alert").inner_text()
    await page.fill("#password", environment["SLUICE_OPERATOR_PASSWORD"])
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/ledger")
    assert "Trial balance" in await page.inner_text("main")


async def test_the_session_s_cookie_is_out_of_scripts_reach(operator: Watched):
    (cookie,) = await operator.page.context.cookies()
    assert cookie["httpOnly"] is True
    assert cookie["sameSite"] == "Lax"
    assert await operator.page.evaluate("document.cookie") == ""


async def test_tenants_show_who_is_here(operator: Watched, played_story: Story):
    text = await operator.see("/tenants")
    for shown in (
        played_story.named("acme"),
        played_story.named("globex"),
        played_story.tenant_id,
        played_story.other_id,
    ):
        assert shown in text
    # Another test may have taken acme live: then its plan in live mode is the one that counts.
    api = Api(played_story.origin, played_story.environment["SLUICE_OPERATOR_KEY"])
    acme = await api.get(f"/api/v1/tenants/{played_story.tenant_id}")
    await api.close()
    row = operator.page.get_by_role("row").filter(has_text=played_story.tenant_id)
    assert await row.locator("td").nth(1).inner_text() == acme["plan_key"]
    record = await operator.see(f"/tenants/{played_story.named('acme')}")
    assert played_story.tenant_id in record
    assert "active" in record
    assert "Business clock" in record


async def test_the_switcher_puts_a_tenant_in_view(operator: Watched, played_story: Story):
    slug, page = played_story.named("acme"), operator.page
    await operator.see("/invoices")
    await page.get_by_role("combobox", name="Tenant").select_option(slug)
    await page.get_by_role("button", name="Show").click()
    await page.wait_for_url(f"**/invoices?tenant={slug}*")
    number = played_story.cycle_invoice["number"]
    await page.get_by_role("link", name=number).click()
    assert number in await page.inner_text("h1")
    await page.get_by_role("link", name="Ledger").click()
    assert f"tenant={slug}" in page.url


async def test_usage_is_the_usage_of_the_story(operator: Watched, played_story: Story):
    assert played_story.period is not None
    slug, begin = played_story.named("acme"), format_time(played_story.period[0])
    await operator.see(f"/usage?tenant={slug}")
    page = operator.page
    assert f"{played_story.quantity:,}" in await page.locator(".figures").first.inner_text()
    period = page.get_by_label("Periods").get_by_role("link", name=begin[:10])
    await period.last.click()
    total = page.locator(".figure b").first
    assert await total.inner_text() == f"{played_story.quantity:,}"
    await page.get_by_text("Values as a table").first.click()
    cells = await page.locator("details table").first.locator("td.count").all_inner_texts()
    assert sum(int(cell.replace(",", "")) for cell in cells) == played_story.quantity
    bars = await page.locator("svg.plot").first.locator("rect").count()
    assert bars == sum(cell != "0" for cell in cells)
    async with page.expect_download() as coming:
        await page.get_by_role("link", name="Download as CSV").first.click()
    lines = (await (await coming.value).path()).read_text().splitlines()
    assert sum(int(line.rpartition(",")[2]) for line in lines[1:]) == played_story.quantity


async def test_the_invoice_explains_its_usage_line(operator: Watched, played_story: Story):
    invoice, page = played_story.cycle_invoice, operator.page
    # Also without the tenant in the address: an operator's link finds whose invoice it is.
    text = await operator.see(f"/invoices/{invoice['id']}")
    assert invoice["number"] in text
    assert amount(invoice["total_minor"], played_story) in text
    usage = [line for line in invoice["lines"] if line["kind"] == "usage"]
    for line in usage:
        name = f"How {amount(line['amount_minor'], played_story)} came about"
        await page.get_by_text(name).click()
        opened = await page.locator("details[open]").last.inner_text()
        assert f"{played_story.quantity:,}" in opened
        assert f"{played_story.terms.included:,}" in opened
        assert amount(line["amount_minor"], played_story) in opened
        assert "half even" in opened
        assert "Price version" in opened


async def test_the_ledger_balances(operator: Watched, played_story: Story):
    api = Api(played_story.origin, played_story.environment["SLUICE_OPERATOR_KEY"])
    newcomer = await api.post("/api/v1/tenants", {"name": "Newcomer"})
    await api.close()
    text = await operator.see("/ledger")
    assert f"{played_story.terms.currency} balances" in text
    assert "does not balance" not in text
    totals = await operator.page.locator("tfoot tr").first.locator("td.money").all_inner_texts()
    assert totals[0] == totals[1] != amount(0, played_story)
    assert "stripe_clearing" in text
    assert await operator.page.locator("article.entry").count() > 3
    text = await operator.see(f"/ledger?book=tenant&tenant={newcomer['slug']}")
    assert "Nothing is posted in this book yet" in text


async def test_topics_show_lag_and_renew_themselves(operator: Watched):
    text = await operator.see("/ops/topics")
    for topic in ("usage.events", "billing.events", "payments.events", "tenants.directory"):
        assert topic in text
    page = operator.page
    await page.get_by_text("Offsets of usage.events").click()
    await page.evaluate("document.querySelector('.figures').id = 'old'")
    await page.wait_for_selector("#old", state="detached")
    assert await page.locator("details[open]").count() == 1
    assert "Renewed every" in await page.inner_text("[data-live-note]")


async def test_a_page_that_does_not_exist_says_so(operator: Watched, played_story: Story):
    page, slug = operator.page, played_story.named("globex")
    invoice = played_story.cycle_invoice["id"]
    operator.expected = {f"/invoices/{invoice}", "/no/such/page", "/favicon.ico"}
    answer = await page.goto(f"/invoices/{invoice}?tenant={slug}")
    assert answer is not None
    assert answer.status == 404
    assert await page.inner_text("h1") == "Not found"
    assert played_story.cycle_invoice["number"] not in await page.inner_text("main")
    answer = await page.goto("/no/such/page")
    assert answer is not None
    assert answer.status == 404


async def test_pages_fit_a_narrow_and_a_dark_screen(operator: Watched, played_story: Story):
    page, slug = operator.page, played_story.named("acme")
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size({"width": 390, "height": 800})
    invoice = played_story.cycle_invoice["id"]
    for path in (
        "/tenants",
        "/usage",
        "/invoices",
        f"/invoices/{invoice}",
        "/ledger",
        "/ops/topics",
    ):
        await operator.see(f"{path}?tenant={slug}")
        wide = await page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{path} is {wide} pixels wide"
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(17, 21, 28)"


async def test_the_keyboard_reaches_everything_and_shows_where_it_is(operator: Watched):
    page = operator.page
    await operator.see("/tenants")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to content"
    reached = set()
    for _ in range(30):
        await page.keyboard.press("Tab")
        tag, outline = await page.evaluate(
            "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.add(tag)
        assert outline == "solid" or tag == "BODY"
    assert {"A", "SELECT", "BUTTON"} <= reached


async def test_signing_out_ends_it(operator: Watched):
    page = operator.page
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url("**/login")
    await page.goto("/tenants")
    assert "/login" in page.url
