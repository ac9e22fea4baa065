"""Every page shows the API's figures, in words and amounts that people read."""

import re
from datetime import UTC, datetime

import httpx
import pytest

from tests.services.console.money_api import EVENT, PAYMENT, REPLAY
from tests.services.console.public_api import (
    FORECAST,
    INVOICE,
    METER,
    PLANNED,
    PublicApi,
    problem,
)

PAGES = ["/tenants", "/tenants/acme", "/usage", "/invoices", f"/invoices/{INVOICE}", "/ledger"]
MONEY_PAGES = [
    "/payments",
    f"/payments/{PAYMENT}",
    "/payouts",
    "/disputes",
    "/webhooks",
    f"/webhooks/{EVENT}",
    "/webhooks/replays",
    f"/webhooks/replays/{REPLAY}",
]


async def text_of(client: httpx.AsyncClient, path: str, status: int = 200) -> str:
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


async def test_tenants_are_listed_with_ids_status_and_links(operator: httpx.AsyncClient):
    text = await text_of(operator, "/tenants")
    for shown in ("Acme", "Globex", "cus_sim_1", "sub_sim_1", "active", "pro", "organization"):
        assert shown in text
    assert 'href="/usage?tenant=acme"' in text
    assert "Test mode" in text


async def test_a_tenant_s_page_shows_credit_clock_and_subscription(operator: httpx.AsyncClient):
    text = await text_of(operator, "/tenants/acme")
    assert "2.50 EUR" in text
    assert "2026-03-01 00:00 UTC" in text
    assert "sub_1" in text
    assert "Prepaid" not in text


async def test_a_tenant_s_page_shows_how_far_its_credit_goes(
    operator: httpx.AsyncClient, api: PublicApi
):
    limit = {"meter": "api_calls", "since": "2026-03-01T00:00:00Z", "amount": "12500.5"}
    api.prepaid = {"meters": ["api_calls"], "limits": [limit]}
    text = await text_of(operator, "/tenants/acme")
    assert "<dt>Prepaid: api_calls</dt><dd>12,500.5 since " in text


async def test_an_operator_chooses_a_tenant_for_usage_and_invoices(operator: httpx.AsyncClient):
    assert 'href="/usage?tenant=globex"' in await text_of(operator, "/usage")
    assert 'href="/invoices?tenant=globex"' in await text_of(operator, "/invoices")


async def test_days_and_the_month_without_a_period_are_by_the_tenants_clocks(
    operator: httpx.AsyncClient, api: PublicApi
):
    api.time_zone, api.has_period = "Europe/Berlin", False
    api.month = datetime(2026, 2, 28, 23, tzinfo=UTC)
    text = await text_of(operator, "/usage?tenant=acme")
    assert "days by the clocks of Europe/Berlin" in text
    assert "by day (Europe/Berlin)</caption>" in text
    link = re.search(r'href="(/usage\.csv[^"]+)"', text)
    assert link is not None
    assert "from=2026-02-28T23%3A00" in link[1]
    csv = await operator.get(link[1].replace("&amp;", "&"))
    assert csv.text.splitlines()[1] == "2026-03-01,api_calls,300"


async def test_usage_shows_totals_plot_table_and_csv(operator: httpx.AsyncClient, api: PublicApi):
    text = await text_of(operator, "/usage?tenant=acme")
    assert "<b>1,234</b>" in text
    assert "<b>18,000.5</b>" in text, "the period before"
    assert text.count("<rect") == 19
    assert "counted as of" in text
    assert len(re.findall(r"<tr><th scope=\"row\" class=\"nowrap\">", text)) == 31
    link = re.search(r'href="(/usage\.csv[^"]+)"', text)
    assert link is not None
    csv = await operator.get(link[1].replace("&amp;", "&"))
    assert csv.status_code == 200
    assert csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert csv.text.splitlines()[:2] == ["day,meter,value", "2026-03-01,api_calls,300"]
    by_key = link[1].replace("&amp;", "&").replace("meter=mtr_1", "meter=api_calls")
    assert (await operator.get(by_key)).text == csv.text
    assert {call["x-tenant-id"] for call in api.calls_of("/api/v1/meters/mtr_1/query")} == {"acme"}


async def test_usage_shows_the_forecast_and_what_is_planned(
    operator: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(operator, "/usage?tenant=acme")
    for figure in ("22,000", "17,000", "5,000", "20,000"):
        assert f"<b>{figure}</b>" in text
    assert "21,000 to 23,001 in nine of ten cases" in text
    assert "The hard limit of 20,000 is reached on 2026-03-27." in text
    assert "made <time" in text
    # One of the two that are not canceled is of another meter.
    assert text.count("nightly import") == 1
    assert "each day" in text
    assert '<span class="badge waiting">deferred</span>' in text
    assert '<span class="badge good">admitted</span>' in text
    assert "next period: 19,500 of 20,000 used; room from <time" in text
    # It is of the day when it was declared; what was decided is no such thing.
    assert text.count("as foreseen <time") == 1
    assert len(api.calls_of("/api/v1/usage/forecast")) == 1


async def test_of_two_meters_of_one_key_each_has_its_own_forecast_and_plans(
    operator: httpx.AsyncClient, api: PublicApi
):
    own = {"id": "mtr_own", "owner": "tenant", "event_type": "own.request"}
    api.meters = [METER, METER | own]
    forecast = {"expected": "777.5", "low": "700", "high": "800", "limit_hit_on": None}
    api.forecasts["mtr_own"] = FORECAST | forecast
    text = await text_of(operator, "/usage?tenant=acme")
    cards = text.split('<section class="card"')[1:]
    (platforms,) = [card for card in cards if "the platform's meter" in card]
    (tenants,) = [card for card in cards if "the tenant's meter" in card]
    assert "<b>22,000</b>" in platforms
    assert "nightly import" in platforms
    assert "<b>778</b>" in tenants
    assert "nightly import" not in tenants
    assert "meter=mtr_own" in tenants


async def test_usage_is_shown_where_nothing_can_be_planned_yet(
    operator: httpx.AsyncClient, api: PublicApi
):
    """While an update is under way the console may be newer than the metering service."""
    api.failing["/api/v1/usage/planned"] = problem(404, "There is no such address.")
    api.forecasts["mtr_1"] = {
        name: value for name, value in FORECAST.items() if name not in ("trend", "planned")
    }
    text = await text_of(operator, "/usage?tenant=acme")
    assert "<b>22,000</b>" in text
    assert "by the trend" not in text
    # Only that it is not there is passed over.
    api.failing["/api/v1/usage/planned"] = problem(503, "Usage is away.")
    assert "Usage is away." in await text_of(operator, "/usage?tenant=acme", 503)


async def test_what_is_still_to_happen_is_not_hidden_by_what_was_planned_since(
    operator: httpx.AsyncClient, api: PublicApi
):
    first, *_ = PLANNED
    over = first | {"next": None, "note": "long over"}
    later = [over | {"id": f"pln_later_{number}"} for number in range(200)]
    api.planned = [*later, first]
    text = await text_of(operator, "/usage?tenant=acme")
    assert 0 < text.find("nightly import") < text.find("long over")


async def test_an_earlier_period_can_be_looked_at(operator: httpx.AsyncClient, api: PublicApi):
    text = await text_of(operator, "/usage?tenant=acme&from=2026-02-01T00:00:00Z")
    assert "Earlier period" in text
    # Nothing is ahead of it any more.
    assert "Forecast to" not in text
    assert api.calls_of("/api/v1/usage/forecast") == []
    assert "<b>18,000.5</b>" in text


async def test_invoices_are_listed(operator: httpx.AsyncClient):
    text = await text_of(operator, "/invoices?tenant=acme")
    assert "ACME-0002" in text
    assert '<td class="money wide">66.50 EUR</td>' in text
    assert f'href="/invoices/{INVOICE}?tenant=acme"' in text


async def test_an_invoice_explains_its_lines(operator: httpx.AsyncClient):
    text = await text_of(operator, f"/invoices/{INVOICE}?tenant=acme")
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    for part in (
        "Used 18,000 (from 12,000 events)",
        "Included in the plan 10,000",
        "no limit 3,000 0.25 750",
        "Sum 2,750",
        "Rounded (half even) to 27.50 EUR",
        "Price version 3",
        "Revision of the count 1",
        "-10.00 EUR",
    ):
        assert part in shown


async def test_nothing_of_the_api_becomes_markup_or_a_script_address(operator: httpx.AsyncClient):
    text = await text_of(operator, f"/invoices/{INVOICE}?tenant=acme")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "javascript:" not in text


async def test_an_operator_s_link_without_a_tenant_finds_the_invoice(operator: httpx.AsyncClient):
    answer = await operator.get(f"/invoices/{INVOICE}")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/invoices/{INVOICE}?tenant=acme"


async def test_the_ledger_says_that_it_balances(operator: httpx.AsyncClient):
    text = await text_of(operator, "/ledger")
    assert "EUR balances: debits and credits are both 182.00 EUR" in text
    assert "112.50 EUR Dr" in text
    assert "invoice:1:finalized" in text
    assert "book=tenant" in text
    assert "cursor=more" in text


async def test_the_ledger_says_loudly_that_it_does_not_balance(
    operator: httpx.AsyncClient, api: PublicApi
):
    api.ledger.unbalanced = True
    assert "EUR does not balance: debits 182.01 EUR" in await text_of(operator, "/ledger")


async def test_topics_show_lag_and_renew_themselves(operator: httpx.AsyncClient):
    text = await text_of(operator, "/ops/topics")
    assert "metering.events" in text
    assert '<span class="badge waiting">6</span>' in text
    assert "no group reads it" in text
    assert '<meta http-equiv="refresh"' in text
    part = await text_of(operator, "/ops/topics?part=table")
    assert "<html" not in part
    assert "metering.events" in part


async def test_links_keep_the_tenant_and_the_mode(operator: httpx.AsyncClient, api: PublicApi):
    text = await text_of(operator, "/invoices?tenant=acme&mode=live")
    assert 'href="/ledger?tenant=acme&amp;mode=live"' in text
    assert "Test mode" not in text
    assert api.calls_of("/api/v1/invoices")[-1]["authorization"] == "Bearer as-op-live-None"


async def test_members_see_their_own_tenant_and_no_staff_pages(member: httpx.AsyncClient):
    text = await text_of(member, "/tenants")
    assert "Acme" in text
    assert "Globex" not in text
    assert "/ops/topics" not in text
    assert "ACME-0002" in await text_of(member, "/invoices")
    assert "book=platform" not in await text_of(member, "/ledger")
    await text_of(member, "/ops/topics", 403)
    assert "not a member" in await text_of(member, "/usage?tenant=globex", 403)


async def test_empty_states_name_the_next_command(operator: httpx.AsyncClient, api: PublicApi):
    api.empty = api.ledger.empty = True
    assert "make demo" in await text_of(operator, "/tenants")
    assert "POST /api/v1/meters" in await text_of(operator, "/usage?tenant=acme")
    assert "POST /api/v1/billing/checkout" in await text_of(operator, "/invoices?tenant=acme")
    assert "make demo" in await text_of(operator, "/ledger")


@pytest.mark.parametrize("path", PAGES)
async def test_an_api_problem_is_a_page_with_its_sentence(
    operator: httpx.AsyncClient, api: PublicApi, path: str
):
    for failing in (
        "/api/v1/tenants",
        "/api/v1/tenants/acme",
        "/api/v1/invoices",
        f"/api/v1/invoices/{INVOICE}",
        "/api/v1/ledger/trial-balance",
        "/api/v1/meters",
    ):
        api.failing[failing] = problem(503, "Billing is away. <b>Try again.</b>")
    text = await text_of(operator, f"{path}?tenant=acme", 503)
    assert "Billing is away. &lt;b&gt;Try again." in text
    assert "Traceback" not in text


async def test_an_answer_of_another_shape_is_told_without_a_stack(
    operator: httpx.AsyncClient, api: PublicApi
):
    api.failing["/api/v1/ledger/trial-balance"] = problem(200, "no totals here")
    text = await text_of(operator, "/ledger", 502)
    assert "Update the console" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/invoices/inv_unknown?tenant=acme", 404),
        ("/invoices/..%2f..?tenant=acme", 404),
        ("/invoices/a%20b?tenant=acme", 404),
        ("/tenants/nobody", 404),
        ("/usage?tenant=a/../b", 404),
        ("/usage?tenant=nobody", 404),
        ("/usage?tenant=acme&from=yesterday", 422),
        ("/usage?mode=other", 400),
        ("/ledger?book=other", 422),
        (
            "/usage.csv?tenant=acme&meter=../x&from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z",
            422,
        ),
        ("/usage.csv?tenant=acme&meter=x&from=2026-03-01T00:00:00Z&to=2026-02-01T00:00:00Z", 400),
        ("/console/static/nothing.css", 404),
        ("/console/static/..%2fapp.py", 404),
    ],
)
async def test_bad_addresses_are_refused_with_a_page(
    operator: httpx.AsyncClient, path: str, status: int
):
    text = await text_of(operator, path, status)
    assert "<h1>" in text
    assert "Traceback" not in text


async def test_pages_allow_no_inline_code_and_load_only_their_own_files(
    operator: httpx.AsyncClient,
):
    for path in [*PAGES, *MONEY_PAGES, "/ops/topics"]:
        answer = await operator.get(path, params={"tenant": "acme"})
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert " style=" not in answer.text
        assert "<style" not in answer.text
        assert not re.search(r"<script(?! src=)", answer.text)
        assert not re.search(r"<[^>]*\son[a-z]+=", answer.text)
        for loaded in re.findall(r'<(?:link|script|img)[^>]+(?:href|src)="([^"]+)"', answer.text):
            assert loaded.startswith("/console/static/")
            assert (await operator.get(loaded)).status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert '<html lang="en">' in answer.text
