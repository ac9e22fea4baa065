"""`/api/v1/audit-log`: who changed what, who was refused, when and from where."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from libs.db.pool import Database, Row
from libs.ids import public_id
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.times import UtcTime
from services.tenants import audit
from services.tenants.store_audit import Wanted

router = APIRouter(tags=["audit log"])

Filter = Annotated[str | None, Query(max_length=200)]


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


@router.get("/api/v1/audit-log")
async def list_audit_log(
    request: Request,
    access: Annotated[Access, Depends(Requires("members:manage"))],
    page: Annotated[PageRequest, Depends(page_request)],
    kind: Literal["security", "configuration"] | None = None,
    action: Filter = None,
    actor: Filter = None,
    object_id: Filter = None,
    occurred_from: UtcTime | None = None,
    occurred_to: UtcTime | None = None,
) -> Page[AuditEntryBody]:
    """The tenant's audit log, newest first."""
    position = page.after(int)
    wanted = Wanted(kind, action, actor, object_id, occurred_from, occurred_to)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await audit.search(tx, wanted, position[0] if position else None, page.limit + 1)
    return Page[AuditEntryBody].of(rows, page.limit, lambda row: (row["seq"],), _body)


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
