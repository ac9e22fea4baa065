"""Every service's application, built without a server in sight, and the routes it answers.

Building connects to nothing, so an environment of dummy values is enough.
"""

import base64
import importlib
import os
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import Mount

from libs.crypto import apikeys
from libs.web import health_routes
from libs.web.auth import Requires

ROOT = Path(__file__).resolve().parents[1]
OWN_PORT_ONLY = (*health_routes.PATHS, "/openapi.json")
"""Paths that each process answers on its own port; they never pass the origin."""

CONSOLE = "console"
SANDBOX = "stripe_sim"
PREFIXES = ("SLUICE_", "STRIPE_", "OTEL_")


class ContradictionError(Exception):
    """Two services claim the same thing; the message names both."""


@dataclass(frozen=True)
class Route:
    """One path of a service with its methods.

    Attributes:
        path: the template, e.g. `/api/v1/plans/{plan}`; a mounted folder ends in `{path:path}`.
        in_schema: part of the service's OpenAPI document.
        permissions: what the route's `Requires` ask for; empty on a public route.
    """

    service: str
    path: str
    methods: tuple[str, ...]
    name: str
    in_schema: bool
    permissions: tuple[str, ...]

    @property
    def pattern(self) -> str:
        """A regular expression (RE2) of exactly the paths this template takes."""
        parts = re.split(r"(\{[^}]+\})", self.path)
        return "".join(_pattern_of(part) for part in parts)


@dataclass(frozen=True)
class ServiceApp:
    """A service that has an application."""

    service: str
    app: FastAPI
    routes: tuple[Route, ...]


def services_with_app(root: Path = ROOT) -> list[str]:
    """The services that can be built, the sandbox aside: it is no part of the API."""
    found = {path.parent.name for path in (root / "services").glob("*/app.py")}
    return sorted(found - {SANDBOX})


def build_apps(services: Iterable[str] | None = None) -> list[ServiceApp]:
    """Build each service's application and list its routes.

    Raises:
        ContradictionError: a path could be answered by two services.
    """
    names = services_with_app() if services is None else sorted(services)
    with _dummy_environment(names):
        apps = [_build(name) for name in names]
    refuse_overlaps([route for app in apps for route in app.routes])
    return apps


def routes_of(service: str, app: FastAPI) -> tuple[Route, ...]:
    """The routes that a service answers through the origin."""
    found = [_route(service, context) for context in iter_route_contexts(app.routes)]
    return tuple(route for route in found if route.path not in OWN_PORT_ONLY)


def refuse_overlaps(routes: Sequence[Route]) -> None:
    """Check that no path can be meant for two services.

    Raises:
        ContradictionError: with both templates.
    """
    for one, other in combinations(routes, 2):
        if one.service != other.service and _overlap(one.path, other.path):
            raise ContradictionError(
                f"{one.service} answers {one.path} and {other.service} answers {other.path}: "
                "a path may belong to one service only"
            )


def _build(service: str) -> ServiceApp:
    module = importlib.import_module(f"services.{service}.app")
    app: FastAPI = module.build()
    return ServiceApp(service, app, routes_of(service, app))


def _route(service: str, context: RouteContext) -> Route:
    path = str(context.path)
    if isinstance(context.original_route, Mount):
        path = f"{path.rstrip('/')}/{{path:path}}"
    dependant: Dependant | None = getattr(context, "dependant", None)
    return Route(
        service=service,
        path=path,
        methods=tuple(sorted(context.methods or {"GET", "HEAD"})),
        name=str(context.name),
        in_schema=bool(getattr(context, "include_in_schema", False)),
        permissions=tuple(sorted(set(_permissions(dependant)))) if dependant else (),
    )


def _permissions(dependant: Dependant) -> Generator[str, None, None]:
    for part in dependant.dependencies:
        if isinstance(part.call, Requires):
            yield part.call.permission
        yield from _permissions(part)


def _pattern_of(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part).replace(r"\-", "-")
    return ".+" if part.endswith(":path}") else "[^/]+"


def _overlap(one: str, other: str) -> bool:
    """Whether some path fits both templates, parameters standing for any one segment."""
    if one.endswith(":path}") or other.endswith(":path}"):
        shorter = min(one.split("{", 1)[0], other.split("{", 1)[0], key=len)
        return one.startswith(shorter) and other.startswith(shorter)
    segments = list(zip(one.split("/"), other.split("/"), strict=False))
    same_length = one.count("/") == other.count("/")
    return same_length and all(a == b or "{" in a or "{" in b for a, b in segments)


@contextmanager
def _dummy_environment(services: Iterable[str]) -> Generator[None, None, None]:
    """Settings that are well formed and lead nowhere, whatever the user's shell says."""
    before = dict(os.environ)
    key = base64.b64encode(bytes(32)).decode()
    nowhere = "127.0.0.1:9"
    dummy = {
        "SLUICE_CONFIG": os.devnull,
        "SLUICE_KAFKA": nowhere,
        "SLUICE_KEY_PEPPER": key,
        "SLUICE_MASTER_KEYS": f"dummy:{key}",
        "SLUICE_STRIPE_API_BASE": f"http://{nowhere}",
        "STRIPE_SECRET_KEY": "sk_test_dummy",
        "STRIPE_WEBHOOK_SECRET": "whsec_dummy",
        "SLUICE_OPERATOR_KEY": apikeys.generate("test").key,
        "SLUICE_OPERATOR_EMAIL": "operator@example.com",
        "SLUICE_OPERATOR_PASSWORD": "dummy password",
    }
    for service in services:
        stem = f"SLUICE_{service.upper()}"
        dummy[f"{stem}_PORT"] = "9"
        dummy[f"{stem}_URL"] = f"http://{nowhere}"
        dummy[f"{stem}_POSTGRES"] = f"postgresql://sluice_{service}:dummy@{nowhere}/sluice"
    for name in before:
        if name.startswith(PREFIXES):
            del os.environ[name]
    os.environ.update(dummy)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
