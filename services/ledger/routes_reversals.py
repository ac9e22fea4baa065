"""`/api/v1/ledger/entries/{entry}/reverse`: take an entry back."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.db.pool import Tx
from libs.directory.local import business_now
from libs.ids import InvalidIdError, parse_public_id
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.idempotency import answer_once
from libs.web.problems import Conflict, Forbidden, NotFound, problem_responses
from libs.web.times import UtcTime
from services.ledger import reversal, store
from services.ledger.bounds import OverrunError
from services.ledger.reversal import AlreadyReversedError, NoSuchEntryError
from services.ledger.routes import (
    AccountWouldOverrun,
    EntryAnswer,
    check_effective_at,
    entry_answer,
)

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden, NotFound))


class ReversalBody(BaseModel):
    """Why the entry is taken back, and as of when."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$")] = Field(
        description="For the audit log."
    )
    effective_at: UtcTime | None = Field(
        default=None, description="When the reversal holds; now without it."
    )


@router.post(
    "/api/v1/ledger/entries/{entry}/reverse",
    status_code=201,
    response_model=EntryAnswer,
    responses=problem_responses(Conflict, AccountWouldOverrun),
)
async def reverse_entry(
    request: Request,
    entry: str,
    body: ReversalBody,
    access: Annotated[Access, Depends(Requires(OPERATOR))],
) -> JSONResponse:
    """Book an entry's postings on the other sides, once; the tenant is named by `X-Tenant-ID`."""
    try:
        entry_id = parse_public_id("entry", entry)
    except InvalidIdError:
        raise NotFound from None
    business_time = business_now(access.tenant, access.mode)
    effective_at = body.effective_at or business_time
    check_effective_at(effective_at, business_time, "body.effective_at")

    async def work(tx: Tx) -> EntryAnswer:
        try:
            reversal_id = await reversal.reverse(
                tx,
                entry_id,
                reason=body.reason,
                actor=access.caller.actor,
                effective_at=effective_at,
                now=utc_now(),
            )
        except NoSuchEntryError:
            raise NotFound from None
        except AlreadyReversedError as done:
            raise Conflict(
                "The entry was reversed before. `GET /api/v1/ledger/entries` with `source_key` "
                f"`{done}` shows it.",
                code="entry_reversed",
            ) from None
        except OverrunError as overrun:
            raise AccountWouldOverrun.told(overrun) from None
        booked = await store.find_entry(tx, reversal_id)
        assert booked is not None, "it was booked above"
        postings = await store.postings_of(tx, access.mode, booked["book"], [booked])
        return entry_answer((booked, postings))

    return await answer_once(request, access, request.app.state.database, body, work)
