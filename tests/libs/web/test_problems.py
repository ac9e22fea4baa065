"""Whatever goes wrong, the answer is problem+json that helps and gives nothing away."""

from typing import Any

import httpx
import pytest

from libs.web import answers, problems

THING = "/api/v1/things/01890000-0000-7000-8000-000000000001"
SECRET = "sk_test_in_the_wrong_field"


def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of a problem of this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"/docs/problems#{code}"
    assert body["request_id"] == answer.headers["request-id"]
    assert body["title"]
    assert body["detail"].endswith(".")
    return body


async def test_an_unknown_path(api: httpx.AsyncClient):
    check(await api.get("/nowhere"), 404, "route_not_found")
    check(await api.get("/api/v1/things/"), 404, "route_not_found")


async def test_a_method_the_path_does_not_take(api: httpx.AsyncClient):
    answer = await api.delete("/api/v1/things")
    check(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


async def test_fields_that_are_wrong_are_named_without_their_values(api: httpx.AsyncClient):
    answer = await api.post(
        "/api/v1/things/nonsense", json={"name": SECRET + "x" * 40, "price": {"kind": SECRET}}
    )
    body = check(answer, 422, "invalid_request")
    assert [field["field"] for field in body["fields"]] == ["path.thing", "body.name", "body.price"]
    assert "'flat', 'tiered'" in body["fields"][2]["detail"]
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "value", [SECRET, 4242424242424242, 1.5e300, [SECRET], {SECRET: 1}, None, "2026-13-45"]
)
async def test_no_value_is_repeated(api: httpx.AsyncClient, value: object):
    for body in ({"name": value}, {"price": value}, {"price": {"kind": "flat", "amount": value}}):
        answer = await api.post(THING, json=body)
        assert answer.status_code == 422
        assert str(value) not in answer.text or value is None
    answer = await api.get("/api/v1/things", params={"limit": str(value)})
    assert str(value) not in answer.text


async def test_the_list_of_fields_and_their_names_are_bounded(api: httpx.AsyncClient):
    errors = [{"loc": ("body", "x\n" * 500), "msg": "no", "type": "t"}] * 1_000
    problem = answers.invalid_fields(errors)
    assert len(problem.fields) == answers.FIELDS_MAX
    assert len(problem.fields[0].field) == answers.FIELD_PATH_LENGTH_MAX
    assert "\n" not in problem.fields[0].field
    del api


@pytest.mark.parametrize("text", ['{"name', "[" * 3_000, "\xff", '{"a": 1' + "0" * 5_000 + "}"])
async def test_a_body_that_is_not_json(api: httpx.AsyncClient, text: str):
    answer = await api.post(
        THING, content=text.encode("latin-1"), headers={"content-type": "application/json"}
    )
    check(answer, 400, "invalid_request")


async def test_a_body_of_another_type(api: httpx.AsyncClient):
    answer = await api.post(THING, content=b"a=b", headers={"content-type": "text/plain"})
    check(answer, 415, "unsupported_media_type")


async def test_what_nobody_expected_is_logged_and_says_nothing_of_itself(
    api: httpx.AsyncClient, logged: list[dict[str, object]]
):
    answer = await api.get("/api/v1/failures/unexpected")
    body = check(answer, 500, "internal_error")
    failures = [event for event in logged if event["event"] == "http_request_failed"]
    assert [event["request_id"] for event in failures] == [body["request_id"]]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("kind", ["database_down", "database_slow", "database_going"])
async def test_a_database_that_is_away_is_503_with_retry_after(api: httpx.AsyncClient, kind: str):
    answer = await api.get(f"/api/v1/failures/{kind}")
    check(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_text_that_postgres_cannot_hold_is_the_callers_mistake(api: httpx.AsyncClient):
    check(await api.get("/api/v1/failures/nul"), 422, "invalid_request")


async def test_a_missing_permission_is_named(api: httpx.AsyncClient):
    body = check(await api.get("/api/v1/failures/forbidden"), 403, "insufficient_permissions")
    assert body["permission"] == "members:manage"
    answer = await api.get("/api/v1/failures/forbidden_billing")
    body = check(answer, 403, "insufficient_billing_permissions")
    assert body["permission"] == "billing:manage"


async def test_a_route_may_have_a_more_exact_word(api: httpx.AsyncClient):
    body = check(await api.get("/api/v1/failures/conflict"), 409, "slug_taken")
    assert (body["title"], body["detail"]) == ("Slug taken", "The slug is taken.")


async def test_headers_that_belong_to_a_problem(api: httpx.AsyncClient):
    assert (await api.get("/api/v1/failures/rate")).headers["retry-after"] == "7"
    answer = await api.get("/api/v1/failures/unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_every_problem_has_words_and_a_code_of_its_own():
    def below(parent: type[problems.Problem]) -> set[type[problems.Problem]]:
        return {parent}.union(*(below(child) for child in parent.__subclasses__()))

    kinds = {kind for kind in below(problems.Problem) if kind.__module__ == problems.__name__}
    codes: dict[str, int] = {}
    for kind in kinds - {problems.Problem, problems._RetryLater}:
        problem = kind("billing:read") if issubclass(kind, problems.Forbidden) else kind()
        assert problem.detail.endswith("."), kind
        assert problem.title
        codes.setdefault(kind.default_code, problem.status)
    assert len(codes) >= 18
