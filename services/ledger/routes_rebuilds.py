"""`/api/v1/ledger/rebuilds`: a tenant's books built anew from their topics and compared."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode
from libs.ids import InvalidIdError, new_id, parse_public_id, public_id
from libs.messaging.outbox import emit
from libs.web.auth import OPERATOR, Access, Requires, in_mode
from libs.web.idempotency import answer_once
from libs.web.problems import Conflict, Forbidden, NotFound, problem_responses
from services.ledger import store_rebuilds as store

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden, NotFound))


async def _operator(
    access: Annotated[Access, Depends(Requires(OPERATOR))],
    mode: Annotated[
        Mode | None, Query(description="Of which mode the books are; the key's by default.")
    ] = None,
) -> Access:
    return access if mode is None else in_mode(access, mode)


Operator = Annotated[Access, Depends(_operator)]


class RebuildLedgerRequest(BaseModel):
    """Nothing more is to be said: both books of the tenant and mode are built."""

    model_config = ConfigDict(extra="forbid")


class RowsCompared(BaseModel):
    """One table on both sides; `…_rows` are the first that the other side does not have."""

    live: int
    rebuilt: int
    only_live: int
    only_rebuilt: int
    live_rows: list[str]
    rebuilt_rows: list[str]


class LedgerRebuildFound(BaseModel):
    """What the comparison found. Equal: no row is on one side only, and there is no fault."""

    compared: dict[str, RowsCompared] = Field(
        description="Entries by source key: id, content, times, what they reverse. Closing balances."
    )
    faults: list[str] = Field(
        description="What does not hold within one book: its chain, running balances, balances."
    )
    other_versions: int = Field(
        description="Entries that another version of their rule made; no difference."
    )
    other_contents: int = Field(
        description="Those of them for which today's version would book something else."
    )
    set_aside: int = Field(description="Events that cannot be booked, and are in neither.")


class LedgerRebuildBody(BaseModel):
    """A rebuild, at work or ended."""

    id: str
    tenant_id: UUID
    mode: Mode
    state: Literal["waiting", "running", "equal", "different", "failed"]
    records_read: int = Field(description="Of the tenant's partitions, of whichever tenant.")
    records_expected: int
    found: LedgerRebuildFound | None = Field(description="Null before the end.")
    error: str | None
    requested_at: datetime
    ended_at: datetime | None


@router.post(
    "/api/v1/ledger/rebuilds",
    status_code=202,
    response_model=LedgerRebuildBody,
    responses=problem_responses(Conflict),
)
async def start_ledger_rebuild(
    request: Request, body: RebuildLedgerRequest, access: Operator
) -> JSONResponse:
    """Build a tenant's books anew from their topics, beside the live ones, and compare them."""
    database: Database = request.app.state.database

    async def work(tx: Tx) -> LedgerRebuildBody:
        if await store.open_run(tx) is not None:
            raise Conflict(
                "A rebuild of these books is under way. Wait for its end.", code="rebuild_under_way"
            )
        run_id, now = new_id(), utc_now()
        await store.add_run(tx, run_id, now)
        fact = ConfigurationChanged(
            action="ledger.rebuild_requested",
            actor=access.caller.actor,
            object_id=public_id("rebuild", run_id),
        )
        emit(tx, fact, effective_at=now)
        row = await store.find_run(tx, run_id)
        assert row is not None, "it was entered in this transaction"
        return _shape(row)

    return await answer_once(request, access, database, body, work, status=202)


@router.get("/api/v1/ledger/rebuilds/{rebuild}")
async def get_ledger_rebuild(
    request: Request, rebuild: Annotated[str, Path(max_length=100)], access: Operator
) -> LedgerRebuildBody:
    """How far a rebuild of books is, and what it found."""
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
        raise NotFound("There is no such rebuild. Check the id, the tenant and the mode.")
    return _shape(row)


def _shape(row: Row) -> LedgerRebuildBody:
    return LedgerRebuildBody(
        id=public_id("rebuild", row["id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        state=row["state"],
        records_read=row["records_read"],
        records_expected=row["records_expected"],
        found=row["found"],
        error=row["error"],
        requested_at=row["requested_at"],
        ended_at=row["ended_at"],
    )
