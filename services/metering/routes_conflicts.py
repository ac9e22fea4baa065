"""`/api/v1/usage/conflicts`: events that came under the id of another content."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from libs.db.pool import Database, Row
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from services.metering import store_conflicts as store

router = APIRouter(tags=["usage"])


class ConflictBody(BaseModel):
    """An event that was not counted, for its id had been taken with another content."""

    id: str
    source: str
    type: str
    customer: str | None
    received_at: datetime


class ConflictsBody(Page[ConflictBody]):
    """The first 100 of each day, newest first."""

    counted: int = Field(
        description="How many there were in the days that event ids are kept; all, not only those shown."
    )


@router.get("/api/v1/usage/conflicts")
async def list_conflicts(
    request: Request,
    access: Annotated[Access, Depends(Requires("usage:read"))],
    page: Annotated[PageRequest, Depends(page_request)],
) -> ConflictsBody:
    """Events that came under an `id` and `source` that had been counted with another content.

    The first content counts. A product that sends such events loses usage: each use needs an id of
    its own.
    """
    position = page.after(datetime, int, int)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await store.page_of_conflicts(tx, before=position, limit=page.limit + 1)
        counted = await store.total(tx)
    shown = Page[ConflictBody].of(
        rows,
        page.limit,
        lambda row: (row["received_at"], row["partition"], row["log_offset"]),
        _body,
    )
    return ConflictsBody(items=shown.items, next_cursor=shown.next_cursor, counted=counted)


def _body(row: Row) -> ConflictBody:
    return ConflictBody(
        id=row["event_id"],
        source=row["source"],
        type=row["event_type"],
        customer=row["customer"] or None,
        received_at=row["received_at"],
    )
