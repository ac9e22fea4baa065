"""A service's application and the process that serves it.

    def build() -> FastAPI:
        settings = load(Settings)
        …
        return create_app("Metering", health=health, routers=[routes.router], lifespan=lifespan)

    if __name__ == "__main__":
        serve(build, load(Settings))

SIGTERM: not ready from that moment, no new connections, open requests may finish, the lifespan
closes what it opened, exit status 0, all within 15 seconds.
"""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from libs.observability.health import Health
from libs.observability.logging import configure_logging, get_logger
from libs.observability.tracing import configure_tracing
from libs.settings import ProcessSettings
from libs.web import answers, health_routes, problems
from libs.web.limits import Limits, RequestGuard
from libs.web.observed import RequestObserver
from libs.web.plain import PlainRoute, PlainRoutes, answer_plainly
from libs.web.wire import Http

STOP_SECONDS = 15
REQUEST_DRAIN_SECONDS = 6
KEEP_ALIVE_SECONDS = 30
EXIT_OVERRAN = 1

YOUNG_OBJECTS_MAX = 20_000
"""So many more objects than before are alive when the garbage collector looks for circles among them."""

_logger = get_logger(__name__)


class _Application(FastAPI):
    """FastAPI's, past which the requests of plain routes go.

    What FastAPI and Starlette put around every request of theirs (another limit, another look at what
    is raised) takes a while itself, and has nothing to do where ours stands around it.
    """

    plain_routes: PlainRoutes
    answer_plainly: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by its plain route, or as FastAPI does."""
        if self.plain_routes.find(scope):
            scope["app"] = self
            await self.answer_plainly(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    title: str,
    *,
    health: Health,
    routers: Sequence[APIRouter] = (),
    plain_routers: Sequence[APIRouter] = (),
    lifespan: Callable[[FastAPI], Any] | None = None,
    limits: Limits | None = None,
    description: str = "",
    version: str = "1",
) -> FastAPI:
    """The FastAPI application of a service, with everything all services share.

    Args:
        title: name of the API in the OpenAPI document.
        health: the process's checks, behind `/readyz`.
        routers: the service's own routes. Their function names become the operation ids; a second
            path of the same function needs a `name=` of its own (`name="upgrade_alias"`).
        plain_routers: routers of `PlainRoute`s alone, looked at before all others.
        lifespan: opens and closes the pool, broker and jobs. It must close within 8 seconds.
        limits: where the default limits do not fit.
        description: what the API is for, in the OpenAPI document.
        version: version of the API.
    """
    app = _Application(
        title=title,
        description=description,
        version=version,
        lifespan=lifespan,
        openapi_url="/openapi.json",
        # The stock pages load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        # FastAPI's own spans carry the query string, where authorization codes and addresses stand.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.health = health
    answers.install(app)
    plain_routes = []
    for route in (route for router in plain_routers for route in router.routes):
        assert isinstance(route, PlainRoute), "a plain router has plain routes alone"
        plain_routes.append(route)
    # There they are documented, and another method than theirs is refused.
    app.router.routes.extend(plain_routes)
    app.include_router(health_routes.router(health))
    for router in routers:
        app.include_router(router)
    limits = limits or Limits()
    # The one added last is the outermost.
    app.add_middleware(RequestGuard, limits=limits)
    app.add_middleware(RequestObserver)
    app.plain_routes = PlainRoutes(plain_routes)
    app.answer_plainly = RequestObserver(RequestGuard(answer_plainly, limits=limits))
    _describe_problems(app)
    return app


def serve(
    app_factory: Callable[[], FastAPI],
    settings: ProcessSettings,
    *,
    stop_seconds: int = STOP_SECONDS,
    young_objects_max: int = YOUNG_OBJECTS_MAX,
) -> None:
    """Run the service in this process until it is told to stop, then for `stop_seconds` at most.

    Args:
        young_objects_max: see `YOUNG_OBJECTS_MAX`; more for a service that has more in hand at once.
    """
    configure_logging(settings.service, settings.log_level)
    endpoint = settings.otlp_endpoint
    configure_tracing(settings.service, str(endpoint) if endpoint else None)
    app = app_factory()
    # What is loaded now stays for good: the garbage collector need not look through it again while
    # requests wait. Nor need it look as often as it does by default, among what requests under way
    # still hold: nearly everything else goes without it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(young_objects_max)
    app.state.trusted_proxies = settings.proxies
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=Http,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Behind a proxy: `libs.web.forwarded` alone says where a request came from.
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=REQUEST_DRAIN_SECONDS,
        backlog=1024,
    )
    _logger.info("process_starting", host=settings.host, port=settings.port)
    _Server(config, app.state.health, stop_seconds).run()
    _logger.info("process_stopped")


class _Server(uvicorn.Server):
    """uvicorn, but a stop that was asked for is a success and never takes longer than it may."""

    def __init__(self, config: uvicorn.Config, health: Health, stop_seconds: int) -> None:
        super().__init__(config)
        self._health = health
        self._stop_seconds = stop_seconds

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at SIGTERM or SIGINT; uvicorn's own way ends the process by that signal again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if self.should_exit:
            return
        _logger.info("process_stopping", signal=number.name)
        self._health.stop()
        self.should_exit = True
        # A thread, for the loop may be what hangs. Ending hard is safe: all truth is in Postgres.
        watchdog = threading.Timer(self._stop_seconds - 1, _end_hard, [self._stop_seconds])
        watchdog.daemon = True
        watchdog.start()


def _end_hard(limit_seconds: int) -> None:
    _logger.critical("process_stop_overran", limit_seconds=limit_seconds)
    os._exit(EXIT_OVERRAN)


def _operation_id(route: APIRoute) -> str:
    return route.name


def _describe_problems(app: FastAPI) -> None:
    """Put our errors in the OpenAPI document in place of FastAPI's stock 422."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for stock in ("HTTPValidationError", "ValidationError"):
                schemas.pop(stock, None)
            schemas |= _problem_schemas()
            for operation in _operations(document):
                responses = operation["responses"]
                if "422" in responses:
                    responses["422"] = problems.problem_responses(problems.InvalidFields)[422]
                responses.setdefault("default", _ANY_PROBLEM)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


_ANY_PROBLEM: Mapping[str, Any] = {
    "description": "Any other problem",
    "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
}


def _problem_schemas() -> dict[str, Any]:
    body = problems.ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    nested: dict[str, Any] = body.pop("$defs", {})
    return {"ProblemBody": body, **nested}


def _operations(document: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
    for path in document.get("paths", {}).values():
        for method, operation in path.items():
            if method in ("get", "put", "post", "delete", "patch"):
                yield operation
