"""`/api/v1/ledger/accounts/{account}/bounds`: what an account may come to."""

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from libs.clock import utc_now
from libs.contracts.ledger import Book
from libs.db.pool import Database
from libs.money import Currency
from libs.web.auth import Access, Requires
from libs.web.problems import Forbidden, InvalidFields, NotFound, problem_responses
from services.ledger import bounds
from services.ledger.bounds import Bounds
from services.ledger.routes import check_book
from services.ledger.routes_accounts import NO_ACCOUNT, AccountCode

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden, NotFound))

BOUND_MINOR_MAX = 10**18
KEEPS_NOTHING = (
    "Only accounts that keep what belongs to somebody have bounds and holds: customer credits, "
    "unapplied payments, and assets and liabilities that the book opened for itself."
)

Bound = Annotated[int, Field(strict=True, ge=-BOUND_MINOR_MAX, le=BOUND_MINOR_MAX)]


class BoundsBody(BaseModel):
    """What the balance may come to in a currency, on the account's normal side; null: anything."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    book: Book = Field(description="`platform` is for the platform's staff alone.")
    currency: Currency
    min_minor: Bound | None = Field(description="Of what is available: the balance less holds.")
    max_minor: Bound | None = Field(description="Of the balance.")

    @model_validator(mode="after")
    def in_order(self) -> Self:
        """The least is not more than the most.

        Raises:
            ValueError: it is.
        """
        if None not in (self.min_minor, self.max_minor) and self.min_minor > self.max_minor:  # type: ignore[operator]
            raise ValueError("`min_minor` must not be above `max_minor`.")
        return self


@router.put("/api/v1/ledger/accounts/{account}/bounds")
async def put_account_bounds(
    request: Request,
    account: AccountCode,
    body: BoundsBody,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> BoundsBody:
    """Set what is posted and held at once may bring the account to.

    What stands on it stays. Facts are never refused: where they pass a bound, that is told.
    """
    await check_book(request, access, body.book)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode, books=access.books) as tx:
        try:
            await bounds.put(
                tx,
                body.book,
                account,
                body.currency,
                Bounds(body.min_minor, body.max_minor),
                actor=access.caller.actor,
                now=utc_now(),
            )
        except bounds.NoSuchAccountError:
            raise NotFound(NO_ACCOUNT) from None
        except bounds.NotKeepingError:
            raise InvalidFields(KEEPS_NOTHING, code="account_keeps_nothing") from None
    return body
