"""`/audit`: the audit log of the tenant in view: search, export, and whether its chain holds."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from services.console.days import times_of
from services.console.pages import SECURITY_HEADERS
from services.console.routes import OfTenant, PageRoute, page
from services.console.shapes import Listed
from services.console.shapes_settings import AuditEntry, Verification

router = APIRouter(include_in_schema=False, route_class=PageRoute)

API = "/api/v1/audit-log"
PAGE_SIZE = "50"
KINDS = (("", "all"), ("configuration", "changes"), ("security", "security events"))
EXPORT_HEADERS = ("content-type", "content-disposition", "sluice-next-after")
Cursor = Annotated[str | None, Query(max_length=1024)]
Wanted = Annotated[str, Query(max_length=200)]


def _wanted(
    kind: Wanted = "",
    action: Wanted = "",
    actor: Wanted = "",
    object_id: Annotated[str, Query(alias="object", max_length=200)] = "",
    text: Wanted = "",
    begin: Annotated[str, Query(alias="from", max_length=40)] = "",
    end: Annotated[str, Query(alias="to", max_length=40)] = "",
) -> dict[str, str]:
    """The filters as the form names them."""
    return {
        "kind": kind,
        "action": action,
        "actor": actor,
        "object": object_id,
        "text": text,
        "from": begin,
        "to": end,
    }


Given = Annotated[dict[str, str], Depends(_wanted)]


@router.get("/audit")
async def show_audit_log(
    request: Request,
    viewer: OfTenant,
    given: Given,
    cursor: Cursor = None,
) -> Response:
    """The entries that fit, newest first."""
    found = await viewer.api.read(
        Listed[AuditEntry], API, limit=PAGE_SIZE, cursor=cursor, **_filters(given)
    )
    return page(
        request,
        "audit.html",
        viewer,
        entries=found.items,
        cursor=found.next_cursor,
        wanted=given,
        query={f"{name}_" if name == "from" else name: value for name, value in given.items()},
        kinds=KINDS,
        filtered=any(given.values()),
    )


@router.get("/audit/verification")
async def show_verification(
    request: Request, viewer: OfTenant, after: Annotated[int, Query(ge=0, le=2**53)] = 0
) -> Response:
    """Check the chain of hashes, from the start or from where the last check stopped."""
    found = await viewer.api.read(Verification, f"{API}/verification", after=str(after))
    return page(request, "audit_verification.html", viewer, found=found, after=after)


@router.get("/audit/export")
async def export_audit_log(
    viewer: OfTenant,
    given: Given,
    file_format: Annotated[Literal["csv", "jsonl"], Query(alias="format")],
) -> Response:
    """The entries that fit as a file, oldest first, as the API streams it."""
    async with AsyncExitStack() as stack:
        coming = viewer.api.stream(f"{API}/export", format=file_format, **_filters(given))
        answer = await stack.enter_async_context(coming)
        kept = stack.pop_all()

    async def content() -> AsyncGenerator[bytes, None]:
        async with kept:
            async for part in answer.aiter_bytes():
                yield part

    headers = {name: answer.headers[name] for name in EXPORT_HEADERS if name in answer.headers}
    return StreamingResponse(content(), headers={**SECURITY_HEADERS, **headers})


def _filters(given: dict[str, str]) -> dict[str, str | None]:
    """The API's filters; the days wanted become times, the last day included.

    Raises:
        ApiProblem: a day is none.
    """
    begin, end = times_of(given["from"], given["to"])
    return {
        "kind": given["kind"] or None,
        "action": given["action"].strip() or None,
        "actor": given["actor"].strip() or None,
        "object_id": given["object"].strip() or None,
        "text": given["text"].strip() or None,
        "occurred_from": begin,
        "occurred_to": end,
    }
