"""`/api/v1/ledger/breaks`: where Stripe and the books differ, and what is done about it."""

import csv
import io
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import format_time, seconds_between, utc_now
from libs.contracts.ledger import Book, BreakKind, PostedLine
from libs.db.pool import Tx
from libs.db.tenant import Mode
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, Forbidden, InvalidFields, NotFound, problem_responses
from services.ledger import breaks, repairing, store_breaks
from services.ledger.bounds import OverrunError
from services.ledger.matching import Action
from services.ledger.repairing import (
    AccountNeededError,
    NoSuchBreakError,
    NothingProposedError,
    SettledError,
)
from services.ledger.reversal import AlreadyReversedError, NoSuchEntryError
from services.ledger.routes import AccountWouldOverrun
from services.ledger.routes_reconciliations import AccountQuery, Seeing, Sight
from services.ledger.store_breaks import Wanted

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden))

BreakState = Literal["open", "proposed", "accepted", "resolved", "ignored"]
Json = dict[str, Any]

EXPORTED_AT_ONCE = 1_000
EXPORTED_MAX = 100_000
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A cell that begins so, also in full width, is a formula to a spreadsheet."""


class ProposalBody(BaseModel):
    """How the break can be repaired.

    `tell_again` has the missing facts told and booked by the rules; `reverse` takes entries back;
    `adjust` books the difference against suspense; `clear_suspense` moves money from suspense to the
    `account` that is named with the acceptance; `acknowledge` books nothing.
    """

    action: Action
    transactions: list[str] = Field(description="Balance transactions to be told again.")
    charges: list[str] = Field(description="Payments to be told again, by their charge.")
    invoices: list[str] = Field(description="Invoices whose payments are to be told again.")
    entries: list[str] = Field(description="Entries to be taken back.")
    tenant_id: UUID | None = Field(
        description="In whose books something is booked; null with entries of several books."
    )
    book: Book | None
    postings: list[PostedLine] = Field(description="What would be booked.")


class BreakBody(BaseModel):
    """A difference between Stripe and the books."""

    id: str
    tenant_id: UUID
    mode: Mode
    account: str
    kind: BreakKind
    reference: str = Field(description="Stripe's id of the payment, movement, payout or invoice.")
    state: BreakState
    currency: str
    stripe_minor: int = Field(description="Of an invoice: what billing says is paid.")
    ledger_minor: int
    difference_minor: int = Field(description="Stripe's side less the books'.")
    occurred_at: datetime
    found_at: datetime
    last_found_at: datetime
    age_seconds: int = Field(description="Since it was found, until now or until it was resolved.")
    times_found: int
    reconciliation: str = Field(description="The run that looked at it last.")
    owner: str | None
    reason: str | None = Field(description="Why it is ignored.")
    accepted_at: datetime | None
    resolved_at: datetime | None
    transactions: list[str]
    entries: list[str]
    proposal: ProposalBody | None


class BreakChange(BaseModel):
    """Something that happened to a break."""

    at: datetime
    change: Literal[
        "found", "found_again", "changed", "accepted", "ignored", "assigned", "resolved"
    ]
    actor: str | None
    detail: str | None


class BreakDetail(BreakBody):
    """A break with its history."""

    history: list[BreakChange]


class Acceptance(BaseModel):
    """Have the break repaired as proposed."""

    model_config = ConfigDict(extra="forbid")

    account: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]+$")] | None = Field(
        default=None,
        description="For `clear_suspense`: where the money belongs, e.g. `expense:stripe_fees`.",
    )


class Ignoring(BaseModel):
    """Let the break be as long as its amounts stay."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$")]


class Assignment(BaseModel):
    """Give the break to a member of the staff, or to nobody."""

    model_config = ConfigDict(extra="forbid")

    owner: Annotated[str, Field(pattern=r"^usr_[0-9a-f-]{36}$")] | None


def wanted_breaks(
    account: AccountQuery = None,
    kind: BreakKind | None = None,
    state: Annotated[
        list[BreakState] | None, Query(description="All that are not resolved, without it.")
    ] = None,
    owner: Annotated[str | None, Query(pattern=r"^usr_[0-9a-f-]{36}$")] = None,
) -> Wanted:
    """Which breaks the caller asks for."""
    return Wanted(account, kind, state or ("open", "proposed", "accepted", "ignored"), owner)


Filters = Annotated[Wanted, Depends(wanted_breaks)]
Staff = Annotated[Access, Depends(Requires(OPERATOR))]


@router.get("/api/v1/ledger/breaks")
async def list_breaks(
    sight: Seeing, page: Annotated[PageRequest, Depends(page_request)], wanted: Filters
) -> Page[BreakBody]:
    """Breaks, newest first; an operator who names no tenant gets those of all."""
    position = page.after(UUID)
    rows = await _listed(sight, wanted, position[0] if position else None, page.limit + 1)
    return Page[BreakBody].of(rows, page.limit, lambda row: (row["id"],), _body)


@router.get(
    "/api/v1/ledger/breaks/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_breaks(sight: Seeing, wanted: Filters) -> StreamingResponse:
    """Breaks as CSV, newest first, at most 100,000; narrow the list where there are more."""

    async def lines() -> AsyncGenerator[str, None]:
        yield _csv_line(_COLUMNS)
        before: UUID | None = None
        for _ in range(EXPORTED_MAX // EXPORTED_AT_ONCE):
            rows = await _listed(sight, wanted, before, EXPORTED_AT_ONCE)
            yield "".join(_csv_line(_cells(_body(row))) for row in rows)
            if len(rows) < EXPORTED_AT_ONCE:
                return
            before = rows[-1]["id"]

    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": 'attachment; filename="breaks.csv"',
    }
    return StreamingResponse(
        lines(), media_type="text/csv; charset=utf-8; header=present", headers=headers
    )


@router.get("/api/v1/ledger/breaks/{break}", responses=problem_responses(NotFound))
async def get_break(
    break_: Annotated[str, Path(alias="break")],
    sight: Seeing,
    access: Annotated[Access, Depends(Requires("ledger:read"))],
) -> BreakDetail:
    """A break with its history; an operator names the tenant by `X-Tenant-ID`."""
    async with sight.database.tenant(access.tenant_id, access.mode) as tx:
        found = await store_breaks.find(tx, _break_id(break_))
        if found is None:
            raise NotFound
        return await _detail(tx, found)


@router.post(
    "/api/v1/ledger/breaks/{break}/accept",
    response_model=BreakDetail,
    responses=problem_responses(NotFound, Conflict, AccountWouldOverrun),
)
async def accept_break(
    request: Request, break_: Annotated[str, Path(alias="break")], body: Acceptance, access: Staff
) -> JSONResponse:
    """Carry out what is proposed; the next run tells whether it repaired the break."""

    async def decide(tx: Tx, break_id: UUID) -> Json:
        return await repairing.accept(
            tx, break_id, account=body.account, actor=access.caller.actor, now=utc_now()
        )

    return await _decide(request, access, break_, body, decide)


@router.post(
    "/api/v1/ledger/breaks/{break}/ignore",
    response_model=BreakDetail,
    responses=problem_responses(NotFound, Conflict),
)
async def ignore_break(
    request: Request, break_: Annotated[str, Path(alias="break")], body: Ignoring, access: Staff
) -> JSONResponse:
    """Let a break be, with a reason; it comes back when its amounts change."""

    async def decide(tx: Tx, break_id: UUID) -> Json:
        return await repairing.ignore(
            tx, break_id, reason=body.reason, actor=access.caller.actor, now=utc_now()
        )

    return await _decide(request, access, break_, body, decide)


@router.post(
    "/api/v1/ledger/breaks/{break}/assign",
    response_model=BreakDetail,
    responses=problem_responses(NotFound, Conflict),
)
async def assign_break(
    request: Request, break_: Annotated[str, Path(alias="break")], body: Assignment, access: Staff
) -> JSONResponse:
    """Give a break to a member of the staff, or to nobody."""

    async def decide(tx: Tx, break_id: UUID) -> Json:
        return await repairing.assign(
            tx, break_id, owner=body.owner, actor=access.caller.actor, now=utc_now()
        )

    return await _decide(request, access, break_, body, decide)


async def _decide(
    request: Request,
    access: Access,
    break_: str,
    body: BaseModel,
    decide: Callable[[Tx, UUID], Awaitable[Json]],
) -> JSONResponse:
    break_id = _break_id(break_)

    async def work(tx: Tx) -> BreakDetail:
        try:
            found = await decide(tx, break_id)
        except NoSuchBreakError:
            raise NotFound from None
        except SettledError:
            raise Conflict("The break is resolved.", code="break_resolved") from None
        except NothingProposedError:
            raise Conflict(
                "Nothing is proposed for this break. Look at it, then ignore it with a reason.",
                code="nothing_proposed",
            ) from None
        except AlreadyReversedError:
            raise Conflict(
                "An entry was reversed meanwhile. The next reconciliation looks at the break again.",
                code="entry_reversed",
            ) from None
        except NoSuchEntryError:
            raise Conflict(
                "The proposal names an entry that its book does not have. The next reconciliation "
                "makes it anew.",
                code="proposal_outdated",
            ) from None
        except OverrunError as overrun:
            raise AccountWouldOverrun.told(overrun) from None
        except AccountNeededError as error:
            raise InvalidFields(str(error)) from None
        return await _detail(tx, found)

    return await answer_once(request, access, request.app.state.database, body, work, status=200)


def _break_id(text: str) -> UUID:
    try:
        return parse_public_id("break", text)
    except InvalidIdError:
        raise NotFound from None


async def _listed(sight: Sight, wanted: Wanted, before: UUID | None, limit: int) -> list[Json]:
    async with sight.transaction() as tx:
        return await store_breaks.list_breaks(
            tx, sight.mode, sight.tenant_id, wanted, before, limit
        )


async def _detail(tx: Tx, found: Json) -> BreakDetail:
    history = [
        BreakChange(
            at=row["changed_at"], change=row["change"], actor=row["actor"], detail=row["detail"]
        )
        for row in await store_breaks.history_of(tx, found["id"])
    ]
    return BreakDetail(**_body(found).model_dump(), history=history)


def _body(found: Json) -> BreakBody:
    proposal = breaks.proposal_of(found)
    same = (
        *("tenant_id", "mode", "account", "kind", "reference", "state", "currency"),
        *("stripe_minor", "ledger_minor", "occurred_at", "found_at", "last_found_at"),
        *("times_found", "owner", "reason", "accepted_at", "resolved_at", "transactions"),
    )
    return BreakBody(
        **{name: found[name] for name in same},
        id=public_id("break", found["id"]),
        difference_minor=found["stripe_minor"] - found["ledger_minor"],
        age_seconds=seconds_between(found["found_at"], found["resolved_at"] or utc_now()),
        reconciliation=public_id("reconciliation", found["reconciliation_id"]),
        entries=[public_id("entry", UUID(str(each))) for each in found["entries"]],
        proposal=None
        if proposal is None
        else ProposalBody(
            action=proposal.action,
            transactions=list(proposal.transactions),
            charges=list(proposal.charges),
            invoices=list(proposal.invoices),
            entries=[public_id("entry", each) for each in proposal.entries],
            tenant_id=proposal.tenant_id,
            book=proposal.book,
            postings=list(proposal.postings),
        ),
    )


_COLUMNS = tuple(name for name in BreakBody.model_fields if name not in ("proposal", "entries"))


def _cells(found: BreakBody) -> list[str]:
    return [_cell(getattr(found, name)) for name in _COLUMNS]


def _cell(value: Any) -> str:
    """A value as text that no spreadsheet takes for a formula."""
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, int):
        return str(value)
    text = " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _csv_line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()
