"""HTTP of healing: synchronizing an account anew, and what a replay would change."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Requires
from libs.web.connections import StripeNotConnected
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, NotFound, problem_responses
from services.stripe_sync import resync, store_checks
from services.stripe_sync.identities import CALLABLE_STATUSES

router = APIRouter()

Manager = Annotated[Access, Depends(Requires("billing:manage"))]
Reader = Annotated[Access, Depends(Requires("billing:read"))]


class ResyncRequest(BaseModel):
    """Whose account to synchronize anew."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] | None = None


class ResyncStep(BaseModel):
    """How far one kind of objects is."""

    object_type: str
    listed: int = Field(description="Objects that Stripe listed so far.")
    marked: int = Field(description="Of these, those that were missing here or differed.")
    done: bool
    last_error: str | None


class ResyncBody(BaseModel):
    """A run over everything that Stripe lists of an account."""

    id: str
    tenant_id: UUID
    mode: str
    stripe_account: str
    state: str = Field(description="`running` or `done`.")
    requested_by: str
    requested_at: datetime
    ended_at: datetime | None
    listed: int
    marked: int
    steps: list[ResyncStep]  # of a run that is done: those that Stripe refused to list


class DifferenceBody(BaseModel):
    """An object that the replay would change, or that could not be compared."""

    tenant_id: UUID
    stripe_account: str
    object_type: str
    object_id: str
    state: str = Field(description="`different` or `failed`.")
    changes: dict[str, Any] = Field(
        description="Each field that differs, with its value `before` and `after`."
    )
    error: str | None


class DifferencesBody(Page[DifferenceBody]):
    """What a dry run of a replay found."""

    checked: int = Field(description="Objects that were compared.")
    different: int
    pending: int = Field(description="Objects that are yet to be compared.")
    failed: int = Field(description="Objects that could not be compared.")


@router.post(
    "/api/v1/stripe/resync",
    status_code=202,
    response_model=ResyncBody,
    responses=problem_responses(Conflict),
)
async def start_resync(request: Request, body: ResyncRequest, access: Manager) -> JSONResponse:
    """List an account at Stripe from end to end, and fetch what is missing here or differs.

    The platform's own account for the platform, a tenant's own account for a tenant. A run that is
    under way is joined.
    """
    state = request.app.state
    access = await state.gate.for_tenant(request, access, body.tenant_id)
    account = _account(request, access)

    async def work(tx: Tx) -> ResyncBody:
        run = await resync.start(tx, account, requested_by=access.caller.actor, now=utc_now())
        return _run(run, await resync.progress(tx, run))

    return await answer_once(request, access, state.database, body, work, status=202)


@router.get("/api/v1/stripe/resync/{resync}", responses=problem_responses(NotFound))
async def get_resync(
    request: Request, resync_id: Annotated[str, Path(alias="resync")], access: Reader
) -> ResyncBody:
    """Show how far a run is."""
    try:
        wanted = parse_public_id("resync", resync_id)
    except InvalidIdError:
        raise NotFound from None
    async with _reading(request.app.state.database, access) as tx:
        run = await resync.find(tx, wanted)
        if run is None or run["mode"] != access.mode:
            raise NotFound
        return _run(run, await resync.progress(tx, run))


@router.get("/api/v1/webhook-replays/{replay}/differences", responses=problem_responses(NotFound))
async def list_replay_differences(
    request: Request,
    replay: Annotated[str, Path(max_length=100)],
    access: Reader,
    page: Annotated[PageRequest, Depends(page_request)],
) -> DifferencesBody:
    """Show what a dry run found: the fields in which Stripe's latest differs from what is kept here."""
    position = page.after(str, str, str)
    after = (position[0], position[1], position[2]) if position else None
    async with _reading(request.app.state.database, access) as tx:
        counts = await store_checks.count(tx, access.mode, replay)
        if not counts:
            raise NotFound("Nothing was compared for such a replay: was it a dry run?")
        rows = await store_checks.list_differing(tx, access.mode, replay, after, page.limit + 1)
    found = Page[DifferenceBody].of(
        rows,
        page.limit,
        lambda row: (row["account"], row["object_type"], row["object_id"]),
        _difference,
    )
    return DifferencesBody(
        items=found.items,
        next_cursor=found.next_cursor,
        checked=counts.get("same", 0) + counts.get("different", 0),
        different=counts.get("different", 0),
        pending=counts.get("pending", 0),
        failed=counts.get("failed", 0),
    )


def _account(request: Request, access: Access) -> str:
    """The account that is the tenant's.

    Raises:
        Conflict: there is none that can be called.
    """
    if access.tenant_id == PLATFORM_TENANT_ID:
        if request.app.state.identities.platform(access.mode) is None:
            raise Conflict(
                f"No Stripe key for mode {access.mode} is configured. Set STRIPE_SECRET_KEY.",
                code="stripe_not_configured",
            )
        return PLATFORM_ACCOUNT
    connection = access.tenant.connection(access.mode)
    if connection is None or connection.account_id is None:
        raise StripeNotConnected
    if connection.status not in CALLABLE_STATUSES or not connection.is_active:
        raise StripeNotConnected
    return connection.account_id


def _reading(database: Database, access: Access) -> AbstractAsyncContextManager[Tx]:
    """A transaction that sees the caller's tenant, or everything for the platform's staff."""
    if access.whole_platform:
        return database.maintenance()
    return database.tenant(access.tenant_id, access.mode)


def _run(run: Row, steps: list[resync.Progress]) -> ResyncBody:
    done = run["state"] == "done"
    return ResyncBody(
        id=public_id("resync", run["resync_id"]),
        tenant_id=run["tenant_id"],
        mode=run["mode"],
        stripe_account=run["account"],
        state=run["state"],
        requested_by=run["requested_by"],
        requested_at=run["requested_at"],
        ended_at=run["ended_at"],
        listed=run["listed"] if done else sum(step.listed for step in steps),
        marked=run["marked"] if done else sum(step.marked for step in steps),
        steps=[
            ResyncStep(
                object_type=step.kind,
                listed=step.listed,
                marked=step.marked,
                done=step.done,
                last_error=step.last_error,
            )
            for step in steps
        ],
    )


def _difference(row: Row) -> DifferenceBody:
    return DifferenceBody(
        tenant_id=row["tenant_id"],
        stripe_account=row["account"],
        object_type=row["object_type"],
        object_id=row["object_id"],
        state=row["state"],
        changes=row["changes"],
        error=row["last_error"],
    )
