"""`/api/v1/ledger/reconciliations`: Stripe accounts compared with the books."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from libs.clock import utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Forbidden, NotFound, problem_responses
from libs.web.times import UtcTime
from services.ledger import reconciling
from services.ledger import store_reconciliations as store
from services.ledger.routes_statements import RANGE_MAX, StripeAccount, check_own

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden))

DEFAULT_WINDOW = timedelta(days=30)


class ReconciliationRequest(BaseModel):
    """Which account, and what of it; the last 30 days without times. `to` is not part of it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    account: StripeAccount
    listed_from: UtcTime | None = Field(default=None, alias="from")
    listed_to: UtcTime | None = Field(
        default=None, alias="to", description="Now without it; balances are compared only then."
    )

    @model_validator(mode="after")
    def in_order(self) -> "ReconciliationRequest":
        """The range is one, and not too long.

        Raises:
            ValueError: it is not.
        """
        since, until = self.extent(utc_now())
        if since >= until:
            raise ValueError("`from` must be before `to`.")
        if until - since > RANGE_MAX:
            raise ValueError(f"The range may be {RANGE_MAX.days} days at most.")
        return self

    def extent(self, now: datetime) -> tuple[datetime, datetime]:
        """From and to.

        Raises:
            ValueError: there is no time so long ago.
        """
        until = self.listed_to or now
        try:
            since = self.listed_from or until - DEFAULT_WINDOW
            reconciling.begins(since)
        except OverflowError:
            raise ValueError("That is too long ago.") from None
        return since, until


class ReconciledBalance(BaseModel):
    """What Stripe holds in a currency, pending and available, and what the books say it does."""

    currency: str
    stripe_minor: int
    ledger_minor: int
    unexplained_minor: int = Field(
        description="What no movement explains: a break when the next run finds the same."
    )
    held_since: datetime | None = Field(
        description="When the oldest of the money came in that stands on the clearing accounts, first "
        "in, first out."
    )
    suspense_since: datetime | None = Field(
        default=None,
        description="When the oldest of the money came that stands in suspense in these books.",
    )


class ReconciliationBody(BaseModel):
    """A run, how far it is and what it found."""

    model_config = ConfigDict(populate_by_name=True)

    id: str
    tenant_id: UUID
    mode: Mode
    account: str
    listed_from: datetime = Field(serialization_alias="from")
    listed_to: datetime = Field(serialization_alias="to")
    state: Literal["listing", "comparing", "completed", "failed"]
    error: str | None = Field(description="Why it failed.")
    requested_by: str | None = Field(description="Null where its turn had come.")
    statement: str
    started_at: datetime
    ended_at: datetime | None
    lines: int = Field(description="Balance transactions that Stripe lists.")
    entries: int = Field(description="Entries of the books that concern the account.")
    matched: int = Field(description="Movements on which both sides agree.")
    waiting: int = Field(description="Movements too new to call what differs a break.")
    breaks_found: int = Field(description="Breaks this run came upon, known ones included.")
    breaks_resolved: int = Field(description="Breaks that are no more.")
    balances: list[ReconciledBalance]


@dataclass(frozen=True)
class Sight:
    """What the caller may see; `tenant_id` None: of all tenants, for the platform's staff."""

    database: Database
    tenant_id: UUID | None
    mode: Mode

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Tx, None]:
        """A transaction that sees exactly that."""
        if self.tenant_id is None:
            async with self.database.maintenance() as tx:
                yield tx
        else:
            async with self.database.tenant(self.tenant_id, self.mode) as tx:
                yield tx


async def seeing(
    request: Request, access: Annotated[Access, Depends(Requires("ledger:read"))]
) -> Sight:
    """Whose reconciliations are read; those of the platform's account by its staff alone.

    Raises:
        Forbidden: somebody else asked for the platform's.
    """
    if access.tenant_id == PLATFORM_TENANT_ID and not access.caller.operator:
        gate: Gate = request.app.state.gate
        access = await gate.admit(request, OPERATOR)
    tenant_id = None if access.whole_platform else access.tenant_id
    return Sight(request.app.state.database, tenant_id, access.mode)


Seeing = Annotated[Sight, Depends(seeing)]
AccountQuery = Annotated[
    str | None, Query(pattern=r"^[A-Za-z0-9_]{1,100}$", description="`acct_…`, or `platform`.")
]


@router.post(
    "/api/v1/ledger/reconciliations",
    status_code=202,
    response_model=ReconciliationBody,
    responses=problem_responses(NotFound),
)
async def request_reconciliation(
    request: Request,
    body: ReconciliationRequest,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> JSONResponse:
    """Compare a Stripe account with the books now; a run that is under way is joined."""
    now = utc_now()
    since, until = body.extent(now)
    check_own(access, body.account, until, now)

    async def work(tx: Tx) -> ReconciliationBody:
        run_id = await reconciling.start(
            tx, body.account, since, until, requested_by=access.caller.actor, now=now
        )
        row = await store.find(tx, run_id)
        assert row is not None, "it was begun above, or was there"
        return _body(row)

    return await answer_once(request, access, request.app.state.database, body, work, status=202)


@router.get("/api/v1/ledger/reconciliations")
async def list_reconciliations(
    sight: Seeing,
    page: Annotated[PageRequest, Depends(page_request)],
    account: AccountQuery = None,
) -> Page[ReconciliationBody]:
    """Runs, newest first; an operator who names no tenant gets those of all."""
    position = page.after(UUID)
    async with sight.transaction() as tx:
        rows = await store.list_runs(
            tx,
            sight.mode,
            sight.tenant_id,
            account,
            position[0] if position else None,
            page.limit + 1,
        )
    return Page[ReconciliationBody].of(rows, page.limit, lambda row: (row["id"],), _body)


@router.get(
    "/api/v1/ledger/reconciliations/{reconciliation}", responses=problem_responses(NotFound)
)
async def get_reconciliation(
    request: Request,
    reconciliation: str,
    access: Annotated[Access, Depends(Requires("ledger:read"))],
) -> ReconciliationBody:
    """A run and what it found; an operator names the tenant by `X-Tenant-ID`."""
    sight = await seeing(request, access)
    try:
        run_id = parse_public_id("reconciliation", reconciliation)
    except InvalidIdError:
        raise NotFound from None
    async with sight.database.tenant(access.tenant_id, sight.mode) as tx:
        row = await store.find(tx, run_id)
    if row is None:
        raise NotFound
    return _body(row)


def _body(row: Row) -> ReconciliationBody:
    state = row["state"]
    return ReconciliationBody(
        id=public_id("reconciliation", row["id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        account=row["account"],
        listed_from=row["listed_from"],
        listed_to=row["listed_to"],
        state=state if state in ("listing", "completed", "failed") else "comparing",
        error=row["error"],
        requested_by=row["requested_by"],
        statement=public_id("statement", row["statement_id"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        lines=row["line_count"],
        entries=row["entry_count"],
        matched=row["matched_count"],
        waiting=row["waiting_count"],
        breaks_found=row["breaks_found"],
        breaks_resolved=row["breaks_resolved"],
        balances=row["balances"],
    )
