"""The books in a real browser: from a sum to its postings, out as a file, closed, and reconciled."""

import pytest

from cli.api import Api
from cli.story import Story
from tests.e2e.conftest import Watched
from tests.journals import read_beancount

pytestmark = [pytest.mark.browser, pytest.mark.flow]


async def test_a_sum_leads_to_its_postings_and_the_book_leaves_as_a_file(
    operator: Watched, played_story: Story
):
    page, slug = operator.page, played_story.named("acme")
    await operator.see(f"/ledger?tenant={slug}")
    await page.get_by_role("link", name="asset:receivable").first.click()
    await page.wait_for_url("**/ledger/accounts/asset:receivable**")
    assert await page.inner_text("h1") == "asset:receivable"
    stands = await page.locator(".figure b").first.inner_text()
    assert await page.locator("tbody td.money").nth(2).inner_text() == stands
    source = page.get_by_role("group", name="Statement").locator("tbody a").first
    key = await source.inner_text()
    await source.click()
    await page.wait_for_url("**/ledger?**source=**")
    assert await page.locator("article.entry").count() == 1
    assert key in await page.locator("article.entry").inner_text()

    await page.locator("#format").select_option("beancount")
    async with page.expect_download() as coming:
        await page.get_by_role("button", name="Download").click()
    journal = read_beancount((await (await coming.value).path()).read_text())
    assert journal.asserted > 3
    assert f"ledger-{slug}-test-platform.beancount" == (await coming.value).suggested_filename
    balances = {
        f"{journal.accounts[account]}": total for (account, _), total in journal.balances().items()
    }
    assert f"{balances['asset:receivable']} {played_story.terms.currency}" == stands


async def test_a_month_is_closed_and_opened_again(operator: Watched, played_story: Story):
    api = Api(played_story.origin, played_story.environment["SLUICE_OPERATOR_KEY"])
    newcomer = await api.post("/api/v1/tenants", {"name": "Closes months"})
    await api.close()
    page = operator.page
    await operator.see(f"/ledger/periods?tenant={newcomer['slug']}")
    await page.get_by_text("Close a month", exact=True).click()
    await page.get_by_label("Month (UTC)").fill("2001-01")
    await page.get_by_label("The month is over").check()
    await page.get_by_role("button", name="Close the month").click()
    await page.wait_for_url("**done=period_closed**")
    row = page.get_by_role("row").filter(has_text="2001-01")
    assert "closed" in await row.inner_text()
    await row.get_by_text("Open again").first.click()
    await row.get_by_label("Reason").fill("a late invoice")
    await row.get_by_label("Its figures may change again").check()
    await row.get_by_role("button", name="Open again").click()
    await page.wait_for_url("**done=period_reopened**")
    assert "a late invoice" in await row.inner_text()


async def test_an_account_is_compared_with_stripe(operator: Watched):
    page = operator.page
    await operator.see("/ledger/reconciliation")
    await page.get_by_text("Compare now").click()
    await page.locator("#account").fill("platform")
    await page.get_by_role("button", name="Compare").click()
    await page.wait_for_url("**done=reconciliation_asked**")
    run = page.get_by_role("group", name="Runs").locator("tbody a").first
    await run.click()
    await page.wait_for_url("**/ledger/reconciliation/runs/**")
    assert "Reconciliation of platform" in await page.inner_text("h1")


async def test_the_ledger_s_pages_fit_a_narrow_and_a_dark_screen(
    operator: Watched, played_story: Story
):
    page, slug = operator.page, played_story.named("acme")
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size({"width": 390, "height": 800})
    for path in (
        "/ledger",
        "/ledger/accounts/asset:receivable",
        "/ledger/periods",
        "/ledger/reconciliation",
    ):
        await operator.see(f"{path}?tenant={slug}")
        wide = await page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{path} is {wide} pixels wide"
