"""`/api/v1/usage/rebuilds`: a tenant's aggregates built anew and compared with the live ones."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, new_id, parse_public_id, public_id
from libs.messaging.outbox import emit
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.idempotency import answer_once
from libs.web.problems import Conflict, NotFound, problem_responses
from services.metering import store_rebuilds as store

router = APIRouter(tags=["usage"])

Operator = Annotated[Access, Depends(Requires(OPERATOR))]


class RebuildRequest(BaseModel):
    """Where the usage is read from."""

    model_config = ConfigDict(extra="forbid")

    source: Literal["archive", "topic"] = Field(
        default="archive",
        description="`archive`: its files, and what came in since from the topic. `topic`: the topic "
        "alone, as long as it holds everything from the first event on.",
    )


class TableCompared(BaseModel):
    """One table on both sides; `…_rows` are the first that the other side does not have."""

    live: int
    rebuilt: int
    only_live: int
    only_rebuilt: int
    live_rows: list[str]
    rebuilt_rows: list[str]


class RebuildBody(BaseModel):
    """A rebuild, at work or ended."""

    id: str
    tenant_id: UUID
    source: Literal["archive", "topic"]
    state: Literal["waiting", "running", "equal", "different", "failed"]
    records_read: int
    records_expected: int
    compared: dict[str, TableCompared] | None = Field(
        description="By table; null before the end. Equal: no row is on one side only."
    )
    error: str | None
    requested_at: datetime
    ended_at: datetime | None


@router.post(
    "/api/v1/usage/rebuilds",
    status_code=202,
    response_model=RebuildBody,
    responses=problem_responses(Conflict),
)
async def start_rebuild(request: Request, body: RebuildRequest, access: Operator) -> JSONResponse:
    """Build a tenant's aggregates anew from what came in, beside the live ones, and compare them."""
    database: Database = request.app.state.database

    async def work(tx: Tx) -> RebuildBody:
        if await store.open_run(tx) is not None:
            raise Conflict(
                "A rebuild of this tenant is under way. Wait for its end.", code="rebuild_under_way"
            )
        run_id, now = new_id(), utc_now()
        await store.add_run(tx, run_id, body.source, now)
        fact = ConfigurationChanged(
            action="usage.rebuild_requested",
            actor=access.caller.actor,
            object_id=public_id("rebuild", run_id),
            after={"source": body.source},
        )
        emit(tx, fact, effective_at=now)
        row = await store.find_run(tx, run_id)
        assert row is not None, "it was entered in this transaction"
        return _shape(row)

    return await answer_once(request, access, database, body, work, status=202)


@router.get("/api/v1/usage/rebuilds/{rebuild}")
async def get_rebuild(
    request: Request, rebuild: Annotated[str, Path(max_length=100)], access: Operator
) -> RebuildBody:
    """How far a rebuild is, and what it found."""
    database: Database = request.app.state.database
    row: Row | None = None
    try:
        run_id = parse_public_id("rebuild", rebuild)
    except InvalidIdError:
        pass
    else:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            row = await store.find_run(tx, run_id)
    if row is None:
        raise NotFound("There is no such rebuild. Check the id, the tenant and your key's mode.")
    return _shape(row)


def _shape(row: Row) -> RebuildBody:
    return RebuildBody(
        id=public_id("rebuild", row["id"]),
        tenant_id=row["tenant_id"],
        source=row["source"],
        state=row["state"],
        records_read=row["records_read"],
        records_expected=row["records_expected"],
        compared=row["compared"],
        error=row["error"],
        requested_at=row["requested_at"],
        ended_at=row["ended_at"],
    )
