"""`/ops/topics`: how far each consumer group is behind, for the platform's staff; live."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from services.console.origin import ApiProblem
from services.console.routes import PageRoute, SignedIn, page
from services.console.shapes import Topics

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/ops/topics")
async def show_topics(
    request: Request,
    viewer: SignedIn,
    part: Annotated[Literal["table"] | None, Query()] = None,
) -> Response:
    """Topics with their groups and lag; `part=table` is what the page refreshes itself with."""
    if not viewer.operator:
        raise ApiProblem(
            403, "This page is for the platform's staff. Ask an operator.", title="Not for you"
        )
    found = await viewer.whole.read(Topics, "/api/v1/ops/topics")
    template = "topics_table.html" if part else "topics.html"
    return page(request, template, viewer, found=found)
