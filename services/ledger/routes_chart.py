"""`/api/v1/ledger/chart` and `/api/v1/ledger/accounts`: what may be posted on, and opening more."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.contracts.ledger import Book
from libs.db.pool import Row, Tx
from libs.web.auth import Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, Forbidden, NotFound, problem_responses
from services.ledger import chart, own_accounts, store_commands
from services.ledger.chart import OWN_NAME, Account, AccountType, Side
from services.ledger.own_accounts import AccountTakenError, TooManyAccountsError
from services.ledger.routes import Reading, check_book

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden))


class AccountBody(BaseModel):
    """An account that a book is to have of its own."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    book: Book
    type: AccountType
    name: Annotated[str, Field(max_length=160, pattern=f"^{OWN_NAME}$")] = Field(
        description="Words of small letters, digits and underscores, up to four deep.",
        examples=["shipping", "stock:berlin"],
    )
    normal_side: Side | None = Field(
        default=None,
        description="The side that increases it. Without it that of its type: `debit` for `asset` "
        "and `expense`, else `credit`.",
    )
    purpose: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")] = Field(
        description="What it is for, for readers of the books. Name no persons."
    )


class ChartAccount(BaseModel):
    """An account of a book; it never changes."""

    account: str = Field(description="Its code, as postings name it.")
    type: AccountType
    normal_side: Side
    purpose: str
    opened_at: datetime | None = Field(description="Null: the ledger's own chart has it.")


@router.post(
    "/api/v1/ledger/accounts",
    status_code=201,
    response_model=ChartAccount,
    responses=problem_responses(Conflict),
)
async def open_account(
    request: Request, body: AccountBody, access: Annotated[Access, Depends(Requires("ledger:post"))]
) -> JSONResponse:
    """Open an account of the book's own, for ever; the same again answers the same."""
    await check_book(request, access, body.book)
    account = chart.own(body.type, body.name)
    if body.normal_side not in (None, account.normal_side):
        account = chart.own(body.type, body.name, contra=True)
    is_known = False

    async def work(tx: Tx) -> ChartAccount:
        nonlocal is_known
        try:
            purpose, opened_at, is_new = await own_accounts.open_account(
                tx,
                body.book,
                account,
                purpose=body.purpose,
                actor=access.caller.actor,
                now=utc_now(),
            )
        except AccountTakenError:
            raise Conflict(
                "The book has this account for another purpose. Accounts never change: choose "
                "another name.",
                code="account_exists",
            ) from None
        except TooManyAccountsError:
            raise Conflict(
                f"The book has {own_accounts.OPEN_MAX:,} accounts of its own, which is as many as "
                "it may have. Post on one of them.",
                code="too_many_accounts",
            ) from None
        is_known = not is_new
        return _shown(account, purpose, opened_at)

    answer = await answer_once(request, access, request.app.state.database, body, work)
    if is_known:
        answer.headers["Idempotent-Replayed"] = "true"
    return answer


@router.get("/api/v1/ledger/chart", responses=problem_responses(NotFound))
async def list_chart(
    reader: Reading, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[ChartAccount]:
    """The accounts of a book, by code; an operator names the tenant by `X-Tenant-ID`."""
    if reader.tenant_id is None:
        raise NotFound("Name the tenant by `X-Tenant-ID`: each has a chart of its own.")
    position = page.after(str)
    async with reader.transaction() as tx:
        rows = await store_commands.list_chart(
            tx,
            reader.tenant_id,
            reader.mode,
            reader.book,
            after=position[0] if position else "",
            limit=page.limit + 1,
        )
    return Page[ChartAccount].of(rows, page.limit, lambda row: (row["code"],), _chart_account)


def _chart_account(row: Row) -> ChartAccount:
    account = chart.named(row["code"])
    return _shown(account, row["purpose"] or account.purpose, row["opened_at"])


def _shown(account: Account, purpose: str, opened_at: datetime | None) -> ChartAccount:
    return ChartAccount(
        account=account.code,
        type=account.type,
        normal_side=account.normal_side,
        purpose=purpose,
        opened_at=opened_at,
    )
