"""Limits hold before a route sees the request."""

from collections.abc import AsyncIterator

import httpx
import pytest

from libs.web import limits
from libs.web.limits import Limits, RateLimiter
from libs.web.problems import RateLimited


async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


async def test_a_body_up_to_the_cap_passes(api: httpx.AsyncClient):
    answer = await api.post("/api/v1/raw", content=b"x" * 10_000)
    assert answer.json() == {"bytes": 10_000}


async def test_a_body_over_the_cap_is_refused_by_its_length(api: httpx.AsyncClient):
    answer = await api.post("/api/v1/raw", content=b"x" * 10_001)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"


async def test_a_body_in_chunks_is_refused_as_it_grows(api: httpx.AsyncClient):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1_000_000:
            sent += 1_000
            yield b"x" * 1_000

    answer = await api.post("/api/v1/raw", content=endless())
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"
    assert sent < 20_000


async def test_a_path_may_take_more(api: httpx.AsyncClient):
    answer = await api.post("/api/v1/large/raw", content=chunks(50, 1_000))
    assert answer.json() == {"bytes": 50_000}
    answer = await api.post("/api/v1/large/raw", content=chunks(51, 1_000))
    assert answer.status_code == 413


def test_the_longest_prefix_counts():
    caps = Limits(body_bytes_max=1, body_bytes_max_by_prefix={"/a": 2, "/a/b": 3})
    assert [caps.body_bytes_max_of(path) for path in ("/", "/a", "/a/b/c")] == [1, 2, 3]


@pytest.mark.parametrize("length", ["-1", "1e3", "ten", "+5", "9" * 30, ""])
async def test_a_length_that_is_no_number_is_refused(api: httpx.AsyncClient, length: str):
    request = api.build_request("POST", "/api/v1/raw", headers={"content-length": length})
    answer = await api.send(request)
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/api/v1/a%00b", "/api/v1/things?cursor=%00"])
async def test_a_nul_in_the_address_is_refused(api: httpx.AsyncClient, path: str):
    answer = await api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_an_overlong_address_is_refused(api: httpx.AsyncClient):
    assert (await api.get("/" + "a" * 2_001)).json()["code"] == "address_too_long"
    assert (await api.get("/?a=" + "a" * 8_001)).json()["code"] == "address_too_long"


async def test_headers_are_bounded_in_size_and_number(api: httpx.AsyncClient):
    answer = await api.get("/api/v1/things", headers={"x": "a" * 20_000})
    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")
    many = {f"x-{number}": "a" for number in range(101)}
    assert (await api.get("/api/v1/things", headers=many)).status_code == 431


def test_a_bucket_gives_its_burst_and_then_its_rate():
    limiter = RateLimiter(per_second=2, burst=3)
    assert [limiter.wait_seconds("k", 0.0) for _ in range(3)] == [0, 0, 0]
    assert limiter.wait_seconds("k", 0.0) == pytest.approx(0.5)
    assert limiter.wait_seconds("k", 0.5) == 0
    assert limiter.wait_seconds("k", 0.6) == pytest.approx(0.4)
    assert limiter.wait_seconds("other", 0.6) == 0


def test_a_bucket_never_holds_more_than_its_burst_and_never_runs_backwards():
    limiter = RateLimiter(per_second=100, burst=1)
    assert limiter.wait_seconds("k", 0.0) == 0
    assert limiter.wait_seconds("k", 1_000.0) == 0
    assert limiter.wait_seconds("k", 999.0) > 0


def test_what_costs_more_takes_more_and_at_most_a_full_bucket():
    limiter = RateLimiter(per_second=2, burst=10)
    assert [limiter.wait_seconds("k", 0.0, cost=4) for _ in range(2)] == [0, 0]
    assert limiter.wait_seconds("k", 0.0, cost=4) == pytest.approx(1)
    assert limiter.wait_seconds("k", 0.0, cost=2) == 0
    assert limiter.wait_seconds("k", 0.0, cost=99) == pytest.approx(5)
    assert limiter.wait_seconds("k", 5.0, cost=99) == 0


def test_inventing_keys_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "RATE_KEYS_MAX", 10)
    limiter = RateLimiter(per_second=1, burst=1)
    for number in range(1_000):
        limiter.wait_seconds(str(number), 0.0)
    assert len(limiter._buckets) == 10


def test_check_raises_with_the_time_to_wait():
    limiter = RateLimiter(per_second=0.1, burst=1)
    limiter.check("k")
    with pytest.raises(RateLimited) as caught:
        limiter.check("k")
    assert caught.value.retry_after_seconds == 10
