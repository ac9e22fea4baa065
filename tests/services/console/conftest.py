"""The console as it is built, over a small program in the public API's place."""

import asyncio
import socket
from collections.abc import AsyncGenerator

import httpx
import pytest
import uvicorn

from services.console.app import build
from tests.services.console.public_api import MEMBER, OPERATOR, PASSWORD, PublicApi

ORIGIN = "http://127.0.0.1:8080"


@pytest.fixture
async def api() -> AsyncGenerator[PublicApi, None]:
    """The program, listening; `address` is where."""
    program = PublicApi()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        program.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(program.app, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield program
        server.should_exit = True
        await serving


@pytest.fixture
async def browser(
    api: PublicApi, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Somebody's browser at the console, not signed in."""
    monkeypatch.setenv("SLUICE_ORIGIN", ORIGIN)
    monkeypatch.setenv("SLUICE_CONSOLE_API", api.address)
    app = build()
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client,
    ):
        yield client


async def sign_in(client: httpx.AsyncClient, email: str, goal: str = "/tenants") -> httpx.Response:
    form = {"email": email, "password": PASSWORD, "next": goal}
    return await client.post("/login", data=form, headers={"Origin": ORIGIN})


@pytest.fixture
async def operator(browser: httpx.AsyncClient) -> httpx.AsyncClient:
    """The browser of one of the platform's staff."""
    await sign_in(browser, OPERATOR)
    return browser


@pytest.fixture
async def member(browser: httpx.AsyncClient) -> httpx.AsyncClient:
    """The browser of acme's owner."""
    await sign_in(browser, MEMBER)
    return browser


async def send(
    client: httpx.AsyncClient, path: str, form: dict[str, object] | None = None
) -> httpx.Response:
    return await client.post(path, data=form or {}, headers={"Origin": ORIGIN})


async def text_of(client: httpx.AsyncClient, path: str, status: int = 200) -> str:
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return answer.text
