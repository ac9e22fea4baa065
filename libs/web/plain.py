"""Routes for what comes thousands of times a second: documented like any other, called without more.

    router = APIRouter(route_class=PlainRoute)

    @router.post("/…/{token}", response_model=Receipt)
    async def receive(request: Request, token: str) -> Response: …

FastAPI looks for the route, works out dependencies and checks the answer on every call, for longer than
such a route itself works. Here the function takes the request and its path parameters as text, and
answers by itself; what it raises becomes an answer as everywhere. Of all that FastAPI has, it may ask
for a permission (`access: Annotated[Access, Depends(Requires(…))]`), for one body, a model, and for its
query as a model (`wanted: Annotated[Wanted, Query()]`). `create_app(plain_routers=…)` puts these before
others.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from libs.web.answers import answer_to, request_id_of, response_of
from libs.web.auth import Access, Requires
from libs.web.problems import RequestTimeout, UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)
Admission = AbstractAsyncContextManager[Access]


class PlainRoute(APIRoute):
    """A route that is called directly; see the module."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # As the application names the operations of the routes that it includes.
        options["operation_id"] = options.get("name") or endpoint.__name__
        super().__init__(path, endpoint, **options)
        self._requires: tuple[str, Callable[[Request], Admission]] | None = None
        self._takes: tuple[str, type[BaseModel]] | None = None
        for asked in self.dependant.dependencies:
            assert isinstance(asked.call, Requires), "a plain route asks for a permission alone"
            assert self._requires is None, "a plain route asks for one permission"
            assert asked.name is not None, "its function takes the access"
            self._requires = (asked.name, asynccontextmanager(asked.call))
        for taken in self.dependant.body_params:
            model = taken.field_info.annotation
            assert isinstance(model, type), "a plain route takes a model"
            assert issubclass(model, BaseModel), "a plain route takes a model"
            assert self._takes is None, "a plain route takes one body"
            self._takes = (taken.name, model)
        self._asks: tuple[str, type[BaseModel]] | None = None
        for asked_for in self.dependant.query_params:
            model = asked_for.field_info.annotation
            assert isinstance(model, type), "a plain route takes its query as a model"
            assert issubclass(model, BaseModel), "a plain route takes its query as a model"
            assert self._asks is None, "a plain route has one query"
            self._asks = (asked_for.name, model)

    async def answer(self, request: Request, arguments: dict[str, Any]) -> Response:
        """What the function answers.

        Args:
            arguments: its path parameters.
        """
        content = b"" if self._takes is None else await request.body()
        if self._requires is None:
            return await self._answer(request, content, arguments)
        name, requires = self._requires
        async with requires(request) as access:
            return await self._answer(request, content, arguments | {name: access})

    async def _answer(
        self, request: Request, content: bytes, arguments: dict[str, Any]
    ) -> Response:
        if self._takes is not None:
            name, model = self._takes
            arguments[name] = read_model(request, content, model)
        if self._asks is not None:
            name, model = self._asks
            arguments[name] = read_query(request, model)
        answer: Response = await self.endpoint(request, **arguments)
        return answer


class PlainRoutes:
    """Which plain route a request is for."""

    def __init__(self, routes: Sequence[PlainRoute]) -> None:
        self._by_path: dict[tuple[str, str], PlainRoute] = {}
        self._by_pattern: list[PlainRoute] = []
        for route in routes:
            assert route.methods is not None, "a route has methods"
            if route.param_convertors:
                self._by_pattern.append(route)
            else:
                self._by_path |= {(method, route.path): route for method in route.methods}

    def find(self, scope: Scope) -> bool:
        """Whether there is one of this method and path; the scope knows it then."""
        if scope["type"] != "http":
            return False
        method, path = scope["method"], scope["path"]
        route = self._by_path.get((method, path))
        if route is not None:
            scope["route"], scope["path_params"] = route, {}
            return True
        for route in self._by_pattern:
            match = route.path_regex.match(path)
            if match is not None and method in (route.methods or ()):
                scope["route"], scope["path_params"] = route, match.groupdict()
                return True
        return False


async def answer_plainly(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request by the plain route that was found for it, also where that raises."""
    request = Request(scope, receive, send)
    try:
        answer = await scope["route"].answer(request, scope["path_params"])
    except ClientDisconnect:
        # Nobody is there to read it; it stands in the log and the figures.
        answer = response_of(RequestTimeout(), request_id_of(request))
    except Exception as error:
        expected = await answer_to(request, error)
        if expected is None:
            raise
        answer = expected
    await answer(scope, receive, send)


def read_model(request: Request, content: bytes, model: type[M]) -> M:
    """The body of a request as a model, refused as FastAPI refuses it.

    Raises:
        UnsupportedMediaType: it is said to be something other than JSON.
        RequestValidationError: it is no JSON, or not what the model describes.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("", "application/json") and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error, "body") from None


def read_query(request: Request, model: type[M]) -> M:
    """The query of a request as a model, refused as FastAPI refuses it; what it does not name is left out.

    Raises:
        RequestValidationError: it is not what the model describes.
    """
    given = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
    try:
        return model.model_validate(
            {name: given[name] for name in model.model_fields if name in given}
        )
    except ValidationError as error:
        raise _refusal(error, "query") from None


def _refusal(error: ValidationError, where: str) -> RequestValidationError:
    errors = error.errors(include_url=False)
    return RequestValidationError([{**each, "loc": (where, *each["loc"])} for each in errors])


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request, whose size and time the application's limits bound.

    Raises:
        ClientDisconnect: the caller went away before its end.
    """
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
