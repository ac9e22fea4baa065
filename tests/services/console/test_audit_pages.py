"""The audit log: searched, taken out as a file, checked."""

import re
from html import unescape

import httpx

from tests.services.console.conftest import text_of
from tests.services.console.public_api import PublicApi, problem


async def test_the_audit_log_tells_who_what_when_and_from_where(member: httpx.AsyncClient):
    text = await text_of(member, "/audit")
    for shown in (
        "member.changed",
        "<del>member</del> <ins>admin</ins>",
        "203.0.113.9",
        "permission_denied",
        "permission members:manage",
        "2026-03-01 12:30 UTC",
        "cursor=further",
    ):
        assert shown in text


async def test_the_audit_log_is_searched_by_what_the_form_says(
    member: httpx.AsyncClient, api: PublicApi
):
    query = "kind=configuration&action=member.&actor=usr_1&object=usr_2&text=admin"
    text = await text_of(member, f"/audit?{query}&from=2026-02-01&to=2026-02-28")
    asked = httpx.URL(api.settings.last()[1]).params
    assert dict(asked) == {
        "limit": "50",
        "kind": "configuration",
        "action": "member.",
        "actor": "usr_1",
        "object_id": "usr_2",
        "text": "admin",
        "occurred_from": "2026-02-01T00:00:00Z",
        "occurred_to": "2026-03-01T00:00:00Z",
    }
    assert 'value="2026-02-28"' in text
    exports = [unescape(link) for link in re.findall(r'href="(/audit/export[^"]+)"', text)]
    assert len(exports) == 2
    answer = await member.get(exports[0])
    assert answer.text == "seq,action\r\n41,x\r\n"
    assert answer.headers["content-type"].startswith("text/csv")
    assert "audit-log-acme.csv" in answer.headers["content-disposition"]
    sent = dict(httpx.URL(api.settings.last()[1]).params)
    assert sent == {**{k: v for k, v in asked.items() if k != "limit"}, "format": "csv"}
    assert "No entry fits" in await text_of(member, "/audit?text=nothing")


async def test_an_export_that_is_refused_is_a_page(member: httpx.AsyncClient, api: PublicApi):
    api.failing["/api/v1/audit-log/export"] = problem(403, "Not yours to read.")
    assert "Not yours to read." in await text_of(member, "/audit/export?format=jsonl", 403)
    assert "must be a date" in await text_of(member, "/audit?from=yesterday", 422)
    await text_of(member, "/audit/export?format=xml", 422)


async def test_the_chain_is_checked_and_a_break_is_told_loudly(
    member: httpx.AsyncClient, api: PublicApi
):
    assert "Entries 1 to 42 hold" in await text_of(member, "/audit/verification")
    api.settings.chain_broken = True
    assert "broken at entry 17: the hash differs" in await text_of(member, "/audit/verification")


async def test_the_api_is_told_where_the_browser_is(member: httpx.AsyncClient, api: PublicApi):
    await text_of(member, "/audit")
    assert api.settings.told[-1][3]["x-forwarded-for"] == "127.0.0.1"
