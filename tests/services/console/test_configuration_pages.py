"""Settings by namespace, the record, and the step into live mode."""

import httpx
import pytest
from fastapi.responses import JSONResponse

from tests.services.console.conftest import send, text_of
from tests.services.console.public_api import PublicApi


async def test_fields_that_are_not_valid_are_named(member: httpx.AsyncClient, api: PublicApi):
    fields = [{"field": "body.values.net_terms_days", "detail": "Must be a whole number."}]
    body = {"status": 422, "detail": "See `fields`.", "fields": fields}
    api.refusing["/api/v1/tenants/acme/config/billing"] = JSONResponse(body, 422)
    answer = await send(member, "/settings/configuration/billing", {"values": "{}"})
    assert answer.status_code == 422
    assert "Not valid. net_terms_days: Must be a whole number." in answer.text


async def test_settings_are_edited_as_json_against_the_version_that_was_read(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, "/settings/configuration/billing")
    assert "&#34;net_terms_days&#34;: 14" in text
    assert "From an invoice&#39;s date on." in text
    assert "Version 2" in text
    form = {"values": '{"net_terms_days": 7, "x": 0.1}', "version": "3"}
    saved = await send(member, "/settings/configuration/billing", dict(form))
    assert saved.headers["location"].endswith("done=configuration_saved")
    method, path, body, headers = api.settings.told[-1]
    assert (method, path) == ("PUT", "/api/v1/tenants/acme/config/billing")
    assert body == {"values": {"net_terms_days": 7, "x": 0.1}}
    assert headers["if-match"] == '"3"'


async def test_a_conflict_keeps_what_was_typed_and_shows_what_holds(member: httpx.AsyncClient):
    form = {"values": '{"net_terms_days": 99}', "version": "2"}
    answer = await send(member, "/settings/configuration/billing", dict(form))
    assert answer.status_code == 412
    assert "Somebody else changed these settings" in answer.text
    assert "{&#34;net_terms_days&#34;: 99}" in answer.text, "what was typed"
    assert 'name="version" value="3"' in answer.text, "saving again is meant"


@pytest.mark.parametrize(
    "text", ["{", "[1]", '"x"', '{"a": NaN}', '{"a": "\\ud800"}', '{"a":' * 1_500, "1" * 5_000]
)
async def test_what_is_no_json_object_is_told(member: httpx.AsyncClient, api: PublicApi, text: str):
    answer = await send(member, "/settings/configuration/billing", {"values": text})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert api.settings.told == []


async def test_settings_of_one_s_own_have_an_address(member: httpx.AsyncClient):
    answer = await member.get("/settings/configuration/custom?name=shop")
    assert answer.headers["location"] == "/settings/configuration/custom.shop?tenant=acme"
    await text_of(member, "/settings/configuration/custom?name=a/b", 404)


async def test_operators_edit_what_only_they_set(operator: httpx.AsyncClient):
    assert "Only the platform" not in await text_of(
        operator, "/settings/configuration/fees?tenant=acme"
    )


async def test_members_read_what_only_operators_set(member: httpx.AsyncClient):
    text = await text_of(member, "/settings/configuration/fees")
    assert "Only the platform" in text
    assert "<textarea" not in text


async def test_the_checklist_says_what_to_do_and_opens_live_mode(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, "/settings/configuration")
    assert "Choose a plan." in text
    assert 'name="reasons"' not in text, "only operators waive"
    form = {"confirm_free_plan": "yes"}
    answer = await send(member, "/settings/configuration/live", dict(form))
    assert answer.headers["location"].endswith("done=went_live")
    assert api.settings.last() == (
        "POST",
        "/api/v1/tenants/acme/live",
        {"confirm_free_plan": True, "waive": []},
    )
    api.settings.live = True
    assert "Live mode is open since" in await text_of(member, "/settings/configuration")


async def test_the_record_is_changed_against_the_state_that_was_read(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, "/settings/configuration")
    assert 'value="bills@acme.example"' in text
    assert 'name="etag" value="&#34;abc123&#34;"' in text
    form = {"name": "Acme", "tax_region": " DE ", "etag": '"abc123"', "billing_email": ""}
    saved = await send(member, "/settings/configuration/record", dict(form))
    assert saved.headers["location"].endswith("done=record_saved")
    method, path, body, headers = api.settings.told[-1]
    assert (method, path) == ("PUT", "/api/v1/tenants/acme")
    assert body == {
        "name": "Acme",
        "locale": None,
        "currency": None,
        "tax_region": "DE",
        "settings": {"billing_email": None},
    }
    assert headers["if-match"] == '"abc123"'


async def test_an_operator_waives_items_with_reasons(operator: httpx.AsyncClient, api: PublicApi):
    text = await text_of(operator, "/settings/configuration?tenant=acme")
    assert text.count('name="reasons"') == 2
    form = {"items": ["plan_chosen", "tax_region_set"], "reasons": ["", "exempt"]}
    await send(operator, "/settings/configuration/live?tenant=acme", dict(form))
    waived = [{"item": "tax_region_set", "reason": "exempt"}]
    assert api.settings.last()[2] == {"confirm_free_plan": False, "waive": waived}
