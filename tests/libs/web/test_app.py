"""What every application has: health, figures, ids, headers, an OpenAPI document without a CDN."""

import re

import httpx
import pytest
from prometheus_client import REGISTRY


async def test_alive_and_ready(api: httpx.AsyncClient):
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    ready = await api.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"postgres": {"ok": True, "detail": ""}}


async def test_not_ready_names_what_fails(api: httpx.AsyncClient):
    transport = api._transport
    assert isinstance(transport, httpx.ASGITransport)
    transport.app.state.health.stop()  # type: ignore[attr-defined]
    ready = await api.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["failing"] == ["process"]
    assert (await api.get("/healthz")).status_code == 200


async def test_requests_are_counted_by_route_never_by_path(api: httpx.AsyncClient):
    def count(route: str, status: str) -> float:
        labels = {"method": "GET", "route": route, "status": status}
        return REGISTRY.get_sample_value("sluice_http_requests_total", labels) or 0

    before = count("/api/v1/failures/{kind}", "403"), count("unmatched", "404")
    await api.get("/api/v1/failures/forbidden")
    await api.get("/some/path/that-is-not-there")
    after = count("/api/v1/failures/{kind}", "403"), count("unmatched", "404")
    assert after == (before[0] + 1, before[1] + 1)
    text = (await api.get("/metrics")).text
    assert "that-is-not-there" not in text
    assert "sluice_http_request_seconds_bucket" in text


async def test_a_proxys_request_id_is_kept_and_a_strange_one_is_not(api: httpx.AsyncClient):
    kept = await api.get("/api/v1/things", headers={"X-Request-ID": "proxy-1234567"})
    assert kept.headers["request-id"] == "proxy-1234567"
    for strange in ("short", "a b c d e f g h", "x" * 65, "<script>alert(1)</script>"):
        answer = await api.get("/api/v1/things", headers={"X-Request-ID": strange})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["request-id"])


@pytest.mark.parametrize("path", ["/api/v1/things", "/nowhere", "/api/v1/failures/unexpected"])
async def test_every_answer_carries_the_security_headers(api: httpx.AsyncClient, path: str):
    headers = (await api.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]


async def test_the_openapi_document_tells_problems_and_hides_inner_routes(api: httpx.AsyncClient):
    document = (await api.get("/openapi.json")).json()
    assert not {"/healthz", "/readyz", "/metrics"} & set(document["paths"])
    operation = document["paths"]["/api/v1/things/{thing}"]["post"]
    assert operation["operationId"] == "create_thing"
    problem = {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
    assert operation["responses"]["422"]["content"] == {"application/problem+json": problem}
    assert operation["responses"]["default"]["content"] == {"application/problem+json": problem}
    dated = document["paths"]["/api/v1/dated"]["get"]["responses"]
    assert dated["404"]["description"] == "not_found"
    schemas = document["components"]["schemas"]
    assert {"ProblemBody", "FieldProblem", "Money"} <= set(schemas)
    assert not {"HTTPValidationError", "ValidationError"} & set(schemas)
    text = (await api.get("/openapi.json")).text
    for reference in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert reference in schemas


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
async def test_no_page_loads_anything_from_a_cdn(api: httpx.AsyncClient, path: str):
    assert (await api.get(path)).status_code == 404
