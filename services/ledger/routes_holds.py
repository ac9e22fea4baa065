"""`/api/v1/ledger/holds`: set an amount aside, then capture or release it."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.contracts.ledger import Book
from libs.db.pool import Database, Row, Tx
from libs.directory.local import business_now
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.money import Currency
from libs.web.auth import Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, Forbidden, InvalidFields, NotFound, problem_responses
from libs.web.times import UtcTime
from services.ledger import bounds, holds, store, store_holds
from services.ledger.routes import (
    AccountWouldOverrun,
    EntryAnswer,
    Reading,
    check_book,
    check_effective_at,
    entry_answer,
)
from services.ledger.routes_accounts import NO_ACCOUNT
from services.ledger.routes_bounds import KEEPS_NOTHING

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden, NotFound))

AMOUNT_MINOR_MAX = 10**14
"""Of one hold; the sum of all that are open stays within what a column holds."""

Poster = Annotated[Access, Depends(Requires("ledger:post"))]
Key = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Your name of the business fact: printable ASCII without spaces.",
    ),
]
Code = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Amount = Annotated[int, Field(strict=True, gt=0, le=AMOUNT_MINOR_MAX)]
HoldPath = Annotated[str, Path(max_length=100)]


class HoldRequest(BaseModel):
    """What to hold, of which account, and until when."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    book: Book = Field(description="`platform` is for the platform's staff alone.")
    key: Key
    account: Code = Field(examples=["liability:customer_credits"])
    amount_minor: Amount
    currency: Currency
    expires_at: UtcTime = Field(description="What is not captured by then is free again.")


class CaptureRequest(BaseModel):
    """How much of it goes where."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: Key
    to: Code = Field(description="The account that gets it.", examples=["revenue:usage"])
    amount_minor: Amount | None = Field(default=None, description="Without: all that is held.")
    rest: Literal["released", "stays"] = Field(
        default="released", description="Whether what is left is free again or stays held."
    )
    effective_at: UtcTime | None = Field(
        default=None, description="When the entry holds; now without it."
    )


class HoldBody(BaseModel):
    """An amount that is held, or was."""

    id: str
    tenant_id: UUID
    book: Book
    key: str
    account: str
    currency: str
    amount_minor: int
    captured_minor: int
    remaining_minor: int = Field(description="Held still.")
    state: holds.State
    placed_at: datetime
    expires_at: datetime
    ended_at: datetime | None


class CaptureBody(BaseModel):
    """A hold, and the entry that was booked for what was captured of it."""

    hold: HoldBody
    entry: EntryAnswer


@router.post(
    "/api/v1/ledger/holds",
    status_code=201,
    response_model=HoldBody,
    responses=problem_responses(Conflict, AccountWouldOverrun),
)
async def create_hold(request: Request, body: HoldRequest, access: Poster) -> JSONResponse:
    """Hold an amount: from now on it is not available to anybody else.

    The same key with the same content answers with the same hold.
    """
    await check_book(request, access, body.book)
    wish = holds.Wish(body.key, body.account, body.currency, body.amount_minor, body.expires_at)
    told_again = False

    async def work(tx: Tx) -> HoldBody:
        nonlocal told_again
        try:
            row, is_new = await holds.place(
                tx, body.book, wish, actor=access.caller.actor, now=utc_now()
            )
        except bounds.NoSuchAccountError:
            raise NotFound(NO_ACCOUNT) from None
        except bounds.NotKeepingError:
            raise InvalidFields(KEEPS_NOTHING, code="account_keeps_nothing") from None
        except holds.ExpiryError:
            raise InvalidFields(
                f"`expires_at` must be to come, within {holds.HELD_MAX.days} days."
            ) from None
        except holds.OtherContentError:
            raise _key_reused() from None
        except holds.TooManyHoldsError:
            raise Conflict(
                f"{holds.OPEN_HOLDS_MAX} holds are open on this account. Capture or release some.",
                code="too_many_holds",
            ) from None
        except bounds.OverrunError as overrun:
            raise AccountWouldOverrun.told(overrun) from None
        told_again = not is_new
        return _body(row)

    answer = await answer_once(request, access, request.app.state.database, body, work)
    return _said_again(answer) if told_again else answer


@router.get("/api/v1/ledger/holds")
async def list_holds(
    reader: Reading,
    page: Annotated[PageRequest, Depends(page_request)],
    account: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
    is_open: Annotated[
        bool | None, Query(alias="open", description="Only open ones, or only ended ones.")
    ] = None,
) -> Page[HoldBody]:
    """The holds of a book, newest first."""
    position = page.after(UUID)
    async with reader.transaction() as tx:
        rows = await store_holds.list_holds(
            tx,
            reader.mode,
            reader.book,
            tenant_id=reader.tenant_id,
            account=account,
            is_open=is_open,
            before=position[0] if position else None,
            limit=page.limit + 1,
        )
    return Page[HoldBody].of(rows, page.limit, lambda row: (row["id"],), _body)


@router.get("/api/v1/ledger/holds/{hold}")
async def get_hold(
    request: Request, hold: HoldPath, access: Annotated[Access, Depends(Requires("ledger:read"))]
) -> HoldBody:
    """Read one hold."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode, books=access.books) as tx:
        return _body(await _found(tx, access, hold))


@router.post(
    "/api/v1/ledger/holds/{hold}/capture",
    status_code=201,
    response_model=CaptureBody,
    responses=problem_responses(Conflict, AccountWouldOverrun),
)
async def capture_hold(
    request: Request, hold: HoldPath, body: CaptureRequest, access: Poster
) -> JSONResponse:
    """Book what is held, or a part of it, on another account.

    The same key with the same content answers with the same entry.
    """
    business_time = business_now(access.tenant, access.mode)
    effective_at = body.effective_at or business_time
    check_effective_at(effective_at, business_time, "body.effective_at")
    wish = holds.Capture(
        key=body.key,
        to=body.to,
        amount_minor=body.amount_minor,
        rest=body.rest,
        effective_at=effective_at,
    )
    told_again = False

    async def work(tx: Tx) -> CaptureBody:
        nonlocal told_again
        row = await _found(tx, access, hold)
        try:
            entry_id, is_new = await holds.capture(
                tx, row, wish, actor=access.caller.actor, now=utc_now()
            )
        except bounds.NoSuchAccountError:
            raise NotFound(NO_ACCOUNT) from None
        except holds.SameAccountError:
            raise InvalidFields("`to` must be another account than the one held on.") from None
        except holds.OtherContentError:
            raise _key_reused() from None
        except holds.EndedError as ended:
            raise _has_ended(ended) from None
        except holds.AmountError as held:
            raise Conflict(
                "More than is held. `remaining_minor` says what is; capture that, or less.",
                code="hold_exceeded",
                extra={"remaining_minor": int(str(held))},
            ) from None
        except holds.FullAccountError as full:
            raise Conflict(
                f"So much was booked on `{full}` that its figures come near what can be held. "
                "Capture to another account.",
                code="account_full",
            ) from None
        except holds.TooManyCapturesError:
            raise Conflict(
                f"The hold was captured {holds.CAPTURES_MAX} times. Release it and place another.",
                code="too_many_captures",
            ) from None
        except bounds.OverrunError as overrun:
            raise AccountWouldOverrun.told(overrun) from None
        told_again = not is_new
        return CaptureBody(
            hold=_body(await _found(tx, access, hold)), entry=await _entry(tx, entry_id)
        )

    answer = await answer_once(request, access, request.app.state.database, body, work)
    return _said_again(answer) if told_again else answer


@router.post("/api/v1/ledger/holds/{hold}/release", responses=problem_responses(Conflict))
async def release_hold(request: Request, hold: HoldPath, access: Poster) -> HoldBody:
    """Free all that is held still. Releasing twice is fine."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode, books=access.books) as tx:
        row = await _found(tx, access, hold)
        try:
            return _body(await holds.release(tx, row, actor=access.caller.actor, now=utc_now()))
        except holds.EndedError as ended:
            raise _has_ended(ended) from None


async def _found(tx: Tx, access: Access, reference: str) -> Row:
    try:
        hold_id = parse_public_id("hold", reference)
    except InvalidIdError:
        raise NotFound from None
    row = await store_holds.find(tx, access.books, hold_id)
    if row is None:
        raise NotFound
    return row


async def _entry(tx: Tx, entry_id: UUID) -> EntryAnswer:
    row = await store.find_entry(tx, entry_id)
    assert row is not None, "a capture is booked in the commit that notes it"
    return entry_answer((row, await store.postings_of(tx, tx.mode, row["book"], [row])))


def _key_reused() -> Conflict:
    return Conflict(
        "This `key` was used before with other content. Use one of its own for each business fact.",
        code="hold_key_reused",
    )


def _has_ended(ended: holds.EndedError) -> Conflict:
    return Conflict(
        f"The hold is {ended}: nothing is held any more. Place another one.", code=f"hold_{ended}"
    )


def _said_again(answer: JSONResponse) -> JSONResponse:
    answer.headers["Idempotent-Replayed"] = "true"
    return answer


def _body(row: Row) -> HoldBody:
    return HoldBody(
        id=public_id("hold", row["id"]),
        tenant_id=row["tenant_id"],
        book=row["book"],
        key=row["key"],
        account=row["account"],
        currency=row["currency"],
        amount_minor=row["amount_minor"],
        captured_minor=row["captured_minor"],
        remaining_minor=row["remaining_minor"],
        state=holds.state_of(row),
        placed_at=row["placed_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
    )
