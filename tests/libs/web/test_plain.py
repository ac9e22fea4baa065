"""Plain routes answer, fail and are documented like all others."""

from typing import Any

import httpx
import pytest
import trial_service
from prometheus_client import REGISTRY


async def test_it_answers_with_its_path_parameters(api: httpx.AsyncClient):
    answer = await api.post("/api/v1/plain/anna", content=b"{}")
    assert (answer.status_code, answer.json()) == (200, {"name": "anna"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("kind", "status"), [("forbidden", 403), ("unexpected", 500), ("database_down", 503)]
)
async def test_what_it_raises_is_a_problem(api: httpx.AsyncClient, kind: str, status: int):
    answer = await api.post("/api/v1/plain/anna", content=kind)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_limits_hold_for_it(api: httpx.AsyncClient):
    answer = await api.post("/api/v1/plain/anna", content=b"x" * 10_001)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    answer = await api.get("/api/v1/plain/anna")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_it_is_counted_by_its_template(api: httpx.AsyncClient):
    labels = {"method": "POST", "route": "/api/v1/plain/{name}", "status": "200"}
    before = REGISTRY.get_sample_value("sluice_http_requests_total", labels) or 0
    await api.post("/api/v1/plain/anna")
    assert REGISTRY.get_sample_value("sluice_http_requests_total", labels) == before + 1


async def test_it_is_documented(api: httpx.AsyncClient):
    document = (await api.get("/openapi.json")).json()
    operation = document["paths"]["/api/v1/plain/{name}"]["post"]
    assert operation["operationId"] == "name_plainly"
    assert [parameter["name"] for parameter in operation["parameters"]] == ["name"]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/Named"}


@pytest.mark.parametrize(
    ("query", "named"), [("name=a", "a"), ("name=a&times=2&more=1", "aa"), ("name=b&name=a", "a")]
)
async def test_it_takes_its_query_as_a_model(api: httpx.AsyncClient, query: str, named: str):
    answer = await api.get(f"/api/v1/plainly?{query}")
    assert (answer.status_code, answer.json()) == (200, {"name": named})


@pytest.mark.parametrize(
    ("query", "field"), [("", "name"), ("name=", "name"), ("name=a&times=4", "times")]
)
async def test_it_refuses_a_query_that_does_not_fit(api: httpx.AsyncClient, query: str, field: str):
    answer = await api.get(f"/api/v1/plainly?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [each["field"] for each in answer.json()["fields"]] == [f"query.{field}"]


async def test_its_query_is_documented(api: httpx.AsyncClient):
    document = (await api.get("/openapi.json")).json()
    parameters = document["paths"]["/api/v1/plainly"]["get"]["parameters"]
    assert [(each["name"], each["in"], each["required"]) for each in parameters] == [
        ("name", "query", True),
        ("times", "query", False),
    ]


async def test_a_caller_who_goes_away_is_no_fault_of_the_service(
    logged: list[dict[str, object]],
) -> None:
    """Half a body, then nothing: 408 in log and figures, not 500 with a stack."""
    said = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return said.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/v1/plain/anna",
        "raw_path": b"/api/v1/plain/anna",
        "query_string": b"",
        "headers": [(b"host", b"sluice.test")],
        "client": ("127.0.0.1", 1),
        "server": ("sluice.test", 80),
        "state": {},
    }
    await trial_service.build()(scope, receive, send)
    assert sent[0]["status"] == 408
    assert "http_request_failed" not in [line["event"] for line in logged]
