"""Routes for what comes thousands of times a second: documented like any other, called without more.

    router = APIRouter(route_class=PlainRoute)

    @router.post("/…/{token}", response_model=Receipt)
    async def receive(request: Request, token: str) -> Response: …

FastAPI works out dependencies and checks the answer on every call, for longer than such a route itself
works. Here the function takes the request and its path parameters as text, and answers by itself;
what it raises becomes an answer as everywhere. Of all that FastAPI has, it may ask for a permission
(`access: Annotated[Access, Depends(Requires(…))]`) and for one body, a model. `create_app(plain_routers=…)`
puts these before others.
"""

from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from libs.web.auth import Requires
from libs.web.problems import UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)


class PlainRoute(APIRoute):
    """A route that is called directly; see the module."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # As the application names the operations of the routes that it includes.
        options["operation_id"] = options.get("name") or endpoint.__name__
        super().__init__(path, endpoint, **options)
        self._requires: tuple[str, Requires] | None = None
        self._takes: tuple[str, type[BaseModel]] | None = None
        for asked in self.dependant.dependencies:
            assert isinstance(asked.call, Requires), "a plain route asks for a permission alone"
            assert self._requires is None, "a plain route asks for one permission"
            assert asked.name is not None, "its function takes the access"
            self._requires = (asked.name, asked.call)
        for taken in self.dependant.body_params:
            model = taken.field_info.annotation
            assert isinstance(model, type), "a plain route takes a model"
            assert issubclass(model, BaseModel), "a plain route takes a model"
            assert self._takes is None, "a plain route takes one body"
            self._takes = (taken.name, model)
        self.app = self._call

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        arguments = dict(scope["path_params"])
        content = b"" if self._takes is None else await request.body()
        if self._requires is None:
            answer = await self._answer(request, content, arguments)
        else:
            name, requires = self._requires
            async with asynccontextmanager(requires)(request) as access:
                answer = await self._answer(request, content, arguments | {name: access})
        await answer(scope, receive, send)

    async def _answer(self, request: Request, content: bytes, arguments: dict[str, Any]) -> Any:
        """What the function answers."""
        if self._takes is not None:
            name, model = self._takes
            arguments[name] = read_model(request, content, model)
        return await self.endpoint(request, **arguments)


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
        errors = error.errors(include_url=False)
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in errors]
        ) from None


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
