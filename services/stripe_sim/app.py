"""The sandbox as a program: `python -m services.stripe_sim.app`."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Generator

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from services.stripe_sim import accounts
from services.stripe_sim.api import Api
from services.stripe_sim.faults import FaultBoard
from services.stripe_sim.jobs import ClockRunner, keep_time
from services.stripe_sim.routes import register
from services.stripe_sim.routes.control import Control, ControlError, refuse
from services.stripe_sim.routes.oauth import OAuth
from services.stripe_sim.routes.pages import Pages
from services.stripe_sim.routes.portal import PortalPages
from services.stripe_sim.routes.simulate import Simulate
from services.stripe_sim.sandbox import Sandbox
from services.stripe_sim.settings import Settings, SettingsError, read_settings
from services.stripe_sim.store import Store
from services.stripe_sim.webhooks import Sender

METHODS = ["GET", "POST", "DELETE"]


def build(settings: Settings | None = None) -> Starlette:
    """Put the sandbox together; it starts working when the application starts."""
    settings = settings or read_settings()
    sandbox = Sandbox(settings, Store(settings.state_path), FaultBoard(settings.seed))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        tasks = [
            asyncio.create_task(job)
            for job in (sender.run(), clock_runner.run(), keep_time(sandbox))
        ]
        sender.resume()
        clock_runner.resume()
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sandbox.store.close()

    async def undo(_request: Request, _error: Exception) -> Response:
        sandbox.store.rollback()
        return PlainTextResponse("The sandbox failed; nothing was changed.\n", 500)

    register()
    accounts.ensure_platform(sandbox)
    sender = Sender(sandbox)
    clock_runner = ClockRunner(sandbox)
    api, pages = Api(sandbox), Pages(sandbox)
    app = Starlette(
        routes=[
            Route("/v1/{path:path}", api.answer, methods=METHODS),
            Route("/v2/{path:path}", api.answer, methods=METHODS),
            *Control(sandbox, sender).routes(),
            *Simulate(sandbox).routes(),
            *pages.routes(),
            *PortalPages(sandbox, pages).routes(),
            *OAuth(sandbox, pages).routes(),
            Route("/healthz", _up),
            Route("/readyz", _up),
        ],
        exception_handlers={ControlError: refuse, Exception: undo},
        middleware=[Middleware(OwnOriginOnly, own_origin=settings.public_url)],
        lifespan=lifespan,
    )
    app.state.sandbox = sandbox
    return app


class OwnOriginOnly:
    """Keeps web pages of other origins away from the control API, which asks for no key."""

    def __init__(self, app: ASGIApp, own_origin: str) -> None:
        self.app = app
        self.own_origin = own_origin.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse control requests that a browser sends for another page."""
        if scope["type"] == "http" and scope["path"].startswith("/_sim"):
            origin = dict(scope["headers"]).get(b"origin")
            if origin not in (None, self.own_origin):
                refusal = PlainTextResponse("Not for pages of other origins.\n", 403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def _up(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = read_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    config = uvicorn.Config(
        build(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=10,
        server_header=False,
    )
    asyncio.run(serve(Server(config)))
    return 0


class Server(uvicorn.Server):
    """A server that leaves the signals to us: SIGTERM ends it with exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture nothing."""
        yield


async def serve(server: Server) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is being answered."""

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    await server.serve()


if __name__ == "__main__":
    sys.exit(main())
