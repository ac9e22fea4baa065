"""The pages of the ledger: statements, files, periods, and where Stripe and the books differ."""

import httpx

from tests.services.console.conftest import send, text_of
from tests.services.console.ledger_api import ACCOUNT, ACME, BREAK, RUN, found
from tests.services.console.public_api import PublicApi, problem
from tests.services.console.test_payments_pages import words_of

STATEMENT = f"/ledger/accounts/{ACCOUNT}"
RECONCILIATION = "/ledger/reconciliation"
BREAK_PAGE = f"{RECONCILIATION}/breaks/{BREAK}"


async def test_a_book_leads_to_accounts_entries_and_files(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, "/ledger")
    assert f'href="{RECONCILIATION}?tenant=acme"' in text, "the tabs"
    assert 'href="/ledger/accounts/asset:receivable?tenant=acme&amp;book=tenant' in text
    shown = words_of(text)
    assert "112.50 EUR Cr 2.50 EUR 110.00 EUR" in shown, "held and available"
    for words in ("rule invoice finalized v2, number 17", "takes back ent_0", "belongs to 2026-01"):
        assert words in shown
    assert '<option value="beancount">Beancount</option>' in text
    text = await text_of(member, "/ledger?source=invoice:1:finalized")
    assert "The entry of invoice:1:finalized" in text
    assert "source_key=invoice%3A1%3Afinalized" in api.ledger.asked[-1]


async def test_all_books_have_no_statement_of_one(operator: httpx.AsyncClient):
    text = await text_of(operator, "/ledger")
    assert "/ledger/accounts/" not in text
    assert "The book as a file" not in text
    assert "This page shows one tenant at a time" in await text_of(operator, STATEMENT)
    assert "This page shows one tenant at a time" in await text_of(operator, "/ledger/periods")


async def test_an_account_shows_what_is_available_and_each_posting(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, STATEMENT)
    shown = words_of(text)
    for words in ("52.50 EUR", "7.50 EUR held", "45.00 EUR available", "order-77", "12.50 EUR"):
        assert words in shown
    assert "<img src=x" not in text
    assert "currency=EUR" in api.ledger.asked[-1]
    assert "cursor=more" in text
    text = await text_of(member, f"{STATEMENT}?currency=USD")
    assert "order-77" not in text, "that hold is of another currency"
    await text_of(member, f"{STATEMENT}?currency=JPY", 404)
    for account in ("asset:none", "%2e%2e", "asset", "a%2f..%2fb", "asset:x%20y"):
        await text_of(member, f"/ledger/accounts/{account}", 404)
    api.ledger.empty = True
    assert "Nothing was posted on this account yet" in await text_of(member, STATEMENT)


async def test_a_book_is_taken_away_as_a_file(member: httpx.AsyncClient, api: PublicApi):
    answer = await member.get("/ledger/export?format=hledger&from=2026-01-01&to=2026-01-31")
    assert answer.status_code == 200
    assert answer.text == "; a journal\n"
    assert answer.headers["content-disposition"] == 'attachment; filename="ledger.journal"'
    assert "content-security-policy" in answer.headers
    asked = api.ledger.asked[-1]
    assert "format=hledger&book=tenant" in asked
    assert "from=2026-01-01T00%3A00%3A00Z&to=2026-02-01T00%3A00%3A00Z" in asked
    await text_of(member, "/ledger/export?format=xlsx", 422)
    await text_of(member, "/ledger/export?from=yesterday", 422)
    api.failing["/api/v1/ledger/export"] = problem(422, "Export it as csv.")
    assert "Export it as csv." in await text_of(member, "/ledger/export?format=hledger", 422)


async def test_months_are_closed_and_opened_again_by_staff(
    operator: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(operator, "/ledger/periods?tenant=acme&book=tenant")
    shown = words_of(text)
    assert "up to entry 42" in shown
    assert "a late invoice" in shown
    assert "<img src=x" not in text
    assert text.count("Open again</summary>") == 1, "only the last one that is closed"
    assert "/ledger/periods/2026-01/reopen" in text
    assert 'href="/ledger?tenant=acme&amp;book=tenant&amp;period=2026-01"' in text
    assert "at the end of 2026-01" in await text_of(operator, "/ledger?tenant=acme&period=2026-01")
    assert "period=2026-01" in api.ledger.asked[-2]
    answer = await send(
        operator, "/ledger/periods?tenant=acme", {"book": "tenant", "period": "2026-02"}
    )
    assert answer.status_code == 303
    assert "book=tenant" in answer.headers["location"]
    assert api.ledger.told[-1] == (
        "POST",
        "/api/v1/ledger/periods/2026-02/close",
        {"book": "tenant"},
    )
    form = {"book": "tenant", "reason": "a late invoice"}
    await send(operator, "/ledger/periods/2026-01/reopen?tenant=acme", form)
    assert api.ledger.told[-1][2] == form
    path = "/api/v1/ledger/periods/2026-03/close"
    api.refusing[path] = problem(409, "Close 2026-02 first.")
    answer = await send(
        operator, "/ledger/periods?tenant=acme", {"book": "tenant", "period": "2026-03"}
    )
    assert answer.status_code == 409
    assert "Close 2026-02 first." in answer.text
    assert 'value="2026-03"' in answer.text


async def test_members_see_periods_and_breaks_and_decide_nothing(member: httpx.AsyncClient):
    text = await text_of(member, "/ledger/periods")
    assert "2026-01" in text
    assert "Open again" not in text
    assert "Close a month" not in text
    text = await text_of(member, BREAK_PAGE)
    assert "missing in ledger" in words_of(text).lower()
    assert "Accept the proposal" not in text
    assert "Let it be" not in text


async def test_breaks_are_listed_with_their_age_and_taken_away(
    operator: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(operator, RECONCILIATION)
    shown = words_of(text)
    for words in ("missing in ledger ch_sim_1", "proposed Acme 3 days", "99.00 EUR 0.00 EUR"):
        assert words in shown
    assert f'href="{BREAK_PAGE}?tenant={ACME}"' in text
    assert "1,204" in shown
    await text_of(operator, f"{RECONCILIATION}?state=ignored&kind=amount")
    assert "state=ignored&kind=amount" in api.ledger.asked[-1]
    answer = await operator.get(f"{RECONCILIATION}/export?state=open")
    assert (answer.status_code, answer.text) == (200, "id\r\n")
    assert "state=open" in api.ledger.asked[-1]
    text = await text_of(operator, f"{RECONCILIATION}/runs/{RUN}?tenant=acme")
    assert "its turn had come" in text
    assert "100.00 EUR" in text
    assert "Oldest since" in text
    assert "2026-02-03" in text
    api.ledger.empty = True
    assert "Nothing was compared yet." in await text_of(operator, RECONCILIATION)


async def test_an_account_is_compared_now(operator: httpx.AsyncClient, api: PublicApi):
    form = {"account": "acct_sim_9", "begin": "2026-01-01", "end": ""}
    answer = await send(operator, f"{RECONCILIATION}?tenant=acme", form)
    assert answer.headers["location"] == f"{RECONCILIATION}?tenant=acme&done=reconciliation_asked"
    assert api.ledger.told[-1][2] == {"account": "acct_sim_9", "from": "2026-01-01T00:00:00Z"}
    api.refusing["/api/v1/ledger/reconciliations"] = problem(404, "No such Stripe account.")
    answer = await send(operator, f"{RECONCILIATION}?tenant=acme", form)
    assert (answer.status_code, "No such Stripe account." in answer.text) == (404, True)


async def test_a_break_is_decided_with_a_confirmation(operator: httpx.AsyncClient, api: PublicApi):
    page = f"{BREAK_PAGE}?tenant=acme"
    text = await text_of(operator, page)
    shown = words_of(text)
    for words in ("Stripe lists it, and the books have nothing of it.", "3 times", "txn_sim_1"):
        assert words in shown
    assert "Have the facts told again" in shown
    assert "<img src=x" not in text
    assert text.count('type="checkbox"') == 2, "accepting and letting be are confirmed"
    for what, form, body in (
        ("accept", {}, {}),
        ("ignore", {"reason": " a test charge "}, {"reason": "a test charge"}),
        ("assign", {"owner": "usr_1"}, {"owner": "usr_1"}),
        ("assign", {"owner": ""}, {"owner": None}),
    ):
        answer = await send(operator, f"{BREAK_PAGE}/{what}?tenant=acme", form)
        assert answer.status_code == 303, answer.text
        assert api.ledger.told[-1] == ("POST", f"/api/v1/ledger/breaks/{BREAK}/{what}", body)
    api.refusing[f"/api/v1/ledger/breaks/{BREAK}/accept"] = problem(409, "It is resolved.")
    answer = await send(operator, f"{BREAK_PAGE}/accept?tenant=acme")
    assert (answer.status_code, "It is resolved." in answer.text) == (409, True)
    foreign = await operator.post(f"{BREAK_PAGE}/accept", headers={"Origin": "https://evil.test"})
    assert foreign.status_code == 403


SUSPENSE = {
    "action": "clear_suspense",
    "book": "tenant",
    "postings": [
        {"account": "liability:suspense", "side": "debit", "amount_minor": 77, "currency": "EUR"}
    ],
}


async def test_what_can_be_done_depends_on_the_break(operator: httpx.AsyncClient, api: PublicApi):
    cases: list[tuple[dict[str, object], str, str]] = [
        ({"state": "resolved"}, "both sides to agree", "Let it be"),
        ({"state": "ignored", "reason": "a test"}, "Let be because", "Let it be</summary>"),
        ({"state": "open", "proposal": None}, "No repair is proposed", "Accept the proposal"),
        ({"proposal": SUSPENSE}, "Account where the money belongs", "both sides to agree"),
    ]
    for changes, shown, hidden in cases:
        api.ledger.found = found(**changes)
        text = await text_of(operator, f"{BREAK_PAGE}?tenant=acme")
        assert shown in words_of(text)
        assert hidden not in text
