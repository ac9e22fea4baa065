"""Routes for what comes thousands of times a second: documented like any other, called without more.

    router = APIRouter(route_class=PlainRoute)

    @router.post("/…/{token}", response_model=Receipt)
    async def receive(request: Request, token: str) -> Response: …

FastAPI works out dependencies and checks the answer on every call, for longer than such a route itself
works. Here the function takes the request and its path parameters as text, and answers by itself;
what it raises becomes an answer as everywhere. `create_app(plain_routers=…)` puts these before others.
"""

from collections.abc import Callable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send


class PlainRoute(APIRoute):
    """A route that is called directly; see the module."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # As the application names the operations of the routes that it includes.
        options["operation_id"] = options.get("name") or endpoint.__name__
        super().__init__(path, endpoint, **options)
        assert self.dependant.dependencies == [], "a plain route has no dependencies"
        self.app = self._call

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self.endpoint(Request(scope, receive, send), **scope["path_params"])
        await answer(scope, receive, send)


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
