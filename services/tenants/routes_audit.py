"""`/api/v1/audit-log`: who changed what, who was refused, when and from where."""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from libs.db.pool import Database, Row
from libs.ids import public_id
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.times import UtcTime
from services.tenants import audit, audit_export
from services.tenants.store_audit import Wanted

router = APIRouter(tags=["audit log"])

MayRead = Annotated[Access, Depends(Requires("members:manage"))]
Kind = Literal["security", "configuration"]
FilterText = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
After = Annotated[int, Query(ge=0, le=2**53, description="Only entries after this `seq`.")]

NEXT_AFTER_HEADER = "Sluice-Next-After"


def _wanted(
    kind: Annotated[Kind | None, Query()] = None,
    action: Annotated[
        FilterText | None,
        Query(description="The whole action, or its first part with the point: `api_key.`."),
    ] = None,
    actor: Annotated[
        FilterText | None, Query(description="`key_…`, `usr_…` or `anonymous`.")
    ] = None,
    object_id: Annotated[
        FilterText | None,
        Query(description="The whole id, or the kind of object with the underscore: `key_`."),
    ] = None,
    occurred_from: UtcTime | None = None,
    occurred_to: UtcTime | None = None,
    text: Annotated[
        FilterText | None, Query(description="Text somewhere in the entry, whatever its case.")
    ] = None,
) -> Wanted:
    return Wanted(kind, action, actor, object_id, occurred_from, occurred_to, text)


Filters = Annotated[Wanted, Depends(_wanted)]


class AuditEntryBody(BaseModel):
    """One entry of the tenant's chain."""

    id: str
    seq: int = Field(description="Place in the tenant's chain, without gaps.")
    occurred_at: datetime
    kind: Literal["security", "configuration"]
    action: str
    actor: str
    object_id: str | None
    service: str
    mode: str | None
    data: dict[str, Any]
    previous_hash: str = Field(description="Hex of the hash before; 64 zeros in the first entry.")
    hash: str = Field(description="Hex of SHA-256(previous_hash || canonical JSON of the entry).")


class VerificationBody(BaseModel):
    """What checking the chain found."""

    holds: bool
    complete: bool = Field(description="The end of the chain was reached.")
    last_seq: int = Field(description="The last entry that holds.")
    signed_seq: int = Field(description="Up to here a signed head proves the chain.")
    forged_heads: int = Field(description="Heads whose signature is not the platform's.")
    next_after: int | None = Field(description="`after` to go on with; null at the end.")
    first_broken_seq: int | None
    reason: str | None


@router.get("/api/v1/audit-log")
async def list_audit_log(
    request: Request,
    access: MayRead,
    page: Annotated[PageRequest, Depends(page_request)],
    wanted: Filters,
) -> Page[AuditEntryBody]:
    """The tenant's audit log, newest first."""
    position = page.after(int)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await audit.search(tx, wanted, position[0] if position else None, page.limit + 1)
    return Page[AuditEntryBody].of(rows, page.limit, lambda row: (row["seq"],), _body)


@router.get(
    "/api/v1/audit-log/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The entries, oldest first. Where there are more than one export holds, "
            f"`{NEXT_AFTER_HEADER}` is the `after` to go on with.",
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/jsonl": {"schema": {"type": "string"}},
            },
        }
    },
)
async def export_audit_log(
    request: Request,
    access: MayRead,
    wanted: Filters,
    export_format: Annotated[audit_export.Format, Query(alias="format")] = "jsonl",
    after: After = 0,
) -> StreamingResponse:
    """The tenant's audit log as a file, at most 100,000 entries at a time."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        extent = await audit.extent_of_export(tx, wanted, after)

    async def lines() -> AsyncGenerator[str, None]:
        yield audit_export.header_of(export_format)
        async for rows in audit.exported(database, access.tenant_id, wanted, extent):
            yield audit_export.lines_of(rows, export_format)

    name = f"audit-log-{access.tenant.snapshot.slug}.{export_format}"
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    if extent.next_after is not None:
        headers[NEXT_AFTER_HEADER] = str(extent.next_after)
    return StreamingResponse(
        lines(), media_type=audit_export.MEDIA_TYPES[export_format], headers=headers
    )


@router.get("/api/v1/audit-log/verification")
async def verify_audit_log(request: Request, access: MayRead, after: After = 0) -> VerificationBody:
    """Whether the chain holds and agrees with its signed heads; at most 50,000 entries at a time.

    `sluice audit verify` also compares it with the topic `audit.events`, where this service itself
    could not change anything.
    """
    database: Database = request.app.state.database
    found = await audit.verify(database, access.tenant_id, after=after)
    broken = found.broken
    return VerificationBody(
        holds=broken is None,
        complete=found.is_complete,
        last_seq=found.seq,
        signed_seq=found.proven_seq,
        forged_heads=found.forged_heads,
        next_after=None if found.is_complete else found.seq,
        first_broken_seq=broken.seq if broken else None,
        reason=broken.reason if broken else None,
    )


def _body(row: Row) -> AuditEntryBody:
    content = row["content"]
    return AuditEntryBody(
        id=public_id("audit", row["event_id"]),
        seq=row["seq"],
        occurred_at=row["occurred_at"],
        kind=row["kind"],
        action=row["action"],
        actor=row["actor"],
        object_id=row["object_id"],
        service=content["source"],
        mode=content["mode"],
        data=content["data"],
        previous_hash=row["previous_hash"].hex(),
        hash=row["hash"].hex(),
    )
