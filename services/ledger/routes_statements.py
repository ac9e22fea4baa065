"""`/api/v1/ledger/statements`: what Stripe itself lists of an account."""

from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from libs.clock import utc_now
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, StatementBalance
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Requires
from libs.web.idempotency import answer_once
from libs.web.problems import (
    Forbidden,
    InvalidFields,
    NotFound,
    RateLimited,
    problem_responses,
)
from libs.web.times import UtcTime
from services.ledger import statements, store_statements
from services.ledger.statements import TooManyError

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden))

RANGE_MAX = timedelta(days=366)

StripeAccount = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_]{1,100}$"),
    Field(description="`acct_…` of the tenant, or `platform`."),
]


class StatementRequest(BaseModel):
    """Of which account and time; `to` is not part of it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    account: StripeAccount
    listed_from: UtcTime = Field(alias="from", description="By Stripe's time of creation.")
    listed_to: UtcTime = Field(alias="to")

    @model_validator(mode="after")
    def in_order(self) -> "StatementRequest":
        """The range is one, and not too long.

        Raises:
            ValueError: it is not.
        """
        if self.listed_from >= self.listed_to:
            raise ValueError("`from` must be before `to`.")
        if self.listed_to - self.listed_from > RANGE_MAX:
            raise ValueError(f"The range may be {RANGE_MAX.days} days at most.")
        return self


class StatementTotal(BaseModel):
    """The sums of one currency and kind of balance transaction."""

    currency: str
    kind: str
    lines: int
    amount_minor: int
    fee_minor: int
    net_minor: int


class StatementBody(BaseModel):
    """A statement and how far it is."""

    model_config = ConfigDict(populate_by_name=True)

    id: str
    tenant_id: UUID
    mode: str
    account: str
    listed_from: datetime = Field(serialization_alias="from")
    listed_to: datetime = Field(serialization_alias="to")
    state: Literal["requested", "complete", "contradictory", "failed"]
    error: str | None = Field(description="Why it failed, or what contradicts itself.")
    requested_at: datetime
    listed_at: datetime | None
    dropped_at: datetime | None = Field(
        description="When its lines were dropped, a week after it was asked for; no totals since."
    )
    parts: int | None
    line_count: int | None
    payout_count: int | None
    digest: str | None
    balances: list[StatementBalance] = Field(description="What Stripe held when it was listed.")
    totals: list[StatementTotal]


@router.post(
    "/api/v1/ledger/statements",
    status_code=202,
    response_model=StatementBody,
    responses=problem_responses(NotFound, RateLimited),
)
async def request_statement(
    request: Request,
    body: StatementRequest,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> JSONResponse:
    """Have an account's balance transactions and payouts of a time listed afresh from Stripe.

    One of the same account and time that is not listed yet is joined.
    """
    now = utc_now()
    check_own(access, body.account, body.listed_to, now)

    async def work(tx: Tx) -> StatementBody:
        try:
            statement_id = await statements.ask(
                tx,
                body.account,
                body.listed_from,
                body.listed_to,
                requested_by=access.caller.actor,
                now=now,
            )
        except TooManyError as error:
            raise RateLimited(
                f"{statements.ASKED_MAX} statements an hour are listed for a tenant. Wait as long "
                "as `Retry-After` says, then ask again; one that is under way is joined.",
                code="too_many_statements",
                retry_after_seconds=int(error.wait.total_seconds()) + 1,
            ) from None
        return await _found(tx, statement_id)

    return await answer_once(request, access, request.app.state.database, body, work, status=202)


@router.get("/api/v1/ledger/statements/{statement}", responses=problem_responses(NotFound))
async def get_statement(
    request: Request,
    statement: str,
    access: Annotated[Access, Depends(Requires("ledger:read"))],
) -> StatementBody:
    """Show a statement: how far it is, and its sums by currency and kind."""
    try:
        statement_id = parse_public_id("statement", statement)
    except InvalidIdError:
        raise NotFound from None
    async with request.app.state.database.tenant(access.tenant_id, access.mode) as tx:
        return await _found(tx, statement_id)


def check_own(access: Access, account: str, listed_to: datetime, now: datetime) -> None:
    """Refuse another's account and a time that is not over.

    Raises:
        NotFound: the tenant has no such account.
        InvalidFields: `to` is yet to come.
    """
    if access.tenant_id == PLATFORM_TENANT_ID:
        own: str | None = PLATFORM_ACCOUNT
    else:
        connection = access.tenant.connection(access.mode)
        own = connection.account_id if connection else None
    if account != own:
        raise NotFound("The tenant has no such Stripe account. See `GET /api/v1/connect/health`.")
    if listed_to > now:
        raise InvalidFields("`to` must not lie in the future: more would come after the listing.")


async def _found(tx: Tx, statement_id: UUID) -> StatementBody:
    row = await store_statements.find(tx, statement_id)
    if row is None:
        raise NotFound
    return _body(row, await store_statements.totals_of(tx, statement_id))


def _body(row: Row, totals: list[Row]) -> StatementBody:
    return StatementBody(
        id=public_id("statement", row["id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        account=row["account"],
        listed_from=row["listed_from"],
        listed_to=row["listed_to"],
        state=row["state"],
        error=row["error"],
        requested_at=row["requested_at"],
        listed_at=row["listed_at"],
        dropped_at=row["dropped_at"],
        parts=row["parts"],
        line_count=row["line_count"],
        payout_count=row["payout_count"],
        digest=row["digest"],
        balances=row["balances"],
        totals=[StatementTotal(**dict(total)) for total in totals],
    )
