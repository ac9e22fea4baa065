"""`/console/static/…`: the style sheet, the one script and the icon, held in memory."""

from fastapi import APIRouter, HTTPException, Request, Response

from services.console.pages import StaticFile
from services.console.routes import PageRoute

router = APIRouter(include_in_schema=False, route_class=PageRoute)

KEEP_SECONDS = 365 * 24 * 3600


@router.get("/console/static/{name}")
async def static_file(request: Request, name: str) -> Response:
    """A file; its address changes with its content, so a browser may keep it."""
    files: dict[str, StaticFile] = request.app.state.static
    found = files.get(name)
    if found is None:
        raise HTTPException(404)
    return Response(
        found.content,
        media_type=found.media_type,
        headers={"Cache-Control": f"public, max-age={KEEP_SECONDS}, immutable"},
    )
