"""`POST /api/v1/ledger/entries`: entries of other producers, booked at once, once by their key."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal, NoReturn

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.contracts.ledger import Book
from libs.db.pool import Tx
from libs.directory.local import business_now
from libs.messaging.told import masked_fields
from libs.money import Currency
from libs.observability.remote import remote_address
from libs.observability.tracing import inject
from libs.web.auth import Access, Requires
from libs.web.idempotency import answer_once, idempotency_key
from libs.web.metadata import Metadata
from libs.web.plain import PlainRoute
from libs.web.problems import (
    Conflict,
    FieldProblem,
    Forbidden,
    InvalidFields,
    Problem,
    Unavailable,
    problem_responses,
)
from libs.web.times import UtcTime
from services.ledger import chart, commands
from services.ledger.bounds import OverrunError
from services.ledger.chart import Side, UnknownAccountError
from services.ledger.coalescing import Coalescer, LineFullError, OverdueError, tried_again
from services.ledger.commands_asked import (
    KEY_SPACE,
    POST_RULE,
    AccountError,
    Command,
    FullAccountError,
    Group,
    OtherContentError,
    Posted,
    RefusedError,
    Verdict,
)
from services.ledger.entries import Entry, Line, UnbalancedError
from services.ledger.routes import (
    AccountWouldOverrun,
    EntryAnswer,
    check_book,
    check_effective_at,
    entry_answer,
)

router = APIRouter(
    tags=["ledger"],
    responses=problem_responses(Forbidden, Conflict, InvalidFields, Unavailable),
    route_class=PlainRoute,
)

POSTINGS_MAX = 100
ENTRIES_MAX = 500
AMOUNT_MINOR_MAX = 10**13

NO_ACCOUNT = (
    "The book has no such account. `GET /api/v1/ledger/chart` lists those it has, and "
    "`POST /api/v1/ledger/accounts` opens more."
)


class PostingBody(BaseModel):
    """One side of an account."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    account: Annotated[str, Field(max_length=200, pattern=r"^[a-z]+(:[A-Za-z0-9_]+)+$")] = Field(
        description="Of `GET /api/v1/ledger/chart`.", examples=["asset:receivable"]
    )
    side: Side
    amount_minor: Annotated[int, Field(strict=True, gt=0, le=AMOUNT_MINOR_MAX)]
    currency: Currency


class EntryBody(BaseModel):
    """An entry as it is to be booked."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    source_key: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9._:/+=-]+$")] = Field(
        description="What the entry books, in your own words: booked once, ever. The book shows it "
        "as `api:<source_key>`. Name no persons: entries are never erased.",
        examples=["order-6735:shipping"],
    )
    effective_at: UtcTime | None = Field(
        default=None,
        description="When it holds, from the year 2000 to a year ahead; now without it.",
    )
    postings: Annotated[list[PostingBody], Field(min_length=2, max_length=POSTINGS_MAX)] = Field(
        description="Debits equal credits in each currency."
    )
    metadata: Metadata = Field(default_factory=dict)


class PostBody(EntryBody):
    """An entry, and the book that it is for."""

    book: Book = Field(description="`platform` is for the platform's staff alone.")


class BatchBody(BaseModel):
    """Entries of one book."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    book: Book = Field(description="`platform` is for the platform's staff alone.")
    atomic: Annotated[bool, Field(strict=True)] = Field(
        description="True: all or none, and what keeps one from being booked is the answer. False: "
        "each by itself, with a verdict for each."
    )
    entries: Annotated[list[EntryBody], Field(min_length=1, max_length=ENTRIES_MAX)]


class RefusalBody(BaseModel):
    """Why an entry is not booked, in the words of the problem it would be if it were sent alone."""

    code: str
    detail: str
    fields: list[FieldProblem] = Field(description="Paths in the body that was sent.")


class EntryVerdict(BaseModel):
    """What became of one entry; `known`: it was booked before, with this content."""

    source_key: str
    status: Literal["posted", "known", "refused"]
    entry: EntryAnswer | None = None
    refusal: RefusalBody | None = None


class BatchAnswer(BaseModel):
    """A verdict per entry, in the order they were sent."""

    results: list[EntryVerdict]


Poster = Annotated[Access, Depends(Requires("ledger:post"))]


@router.post("/api/v1/ledger/entries", status_code=201, response_model=EntryAnswer)
async def post_entry(request: Request, body: PostBody, access: Poster) -> Response:
    """Book an entry at once. The same source key and content again get the same answer."""
    await check_book(request, access, body.book)
    group = [_command(access, body.book, body, "body")]
    replayed = False

    def shown(verdict: Verdict) -> EntryAnswer:
        nonlocal replayed
        (posted,) = _entries(verdict, group, ["body"])
        replayed = not posted.is_new
        return _shown(posted)

    answer: Response
    if idempotency_key(request) is None:
        answer = _answered(shown(await _coalesced_alone(request, group)), 201)
    else:

        async def work(tx: Tx) -> EntryAnswer:
            (verdict,) = await commands.post(tx, body.book, [group])
            return shown(verdict)

        database = request.app.state.database
        answer = await tried_again(partial(answer_once, request, access, database, body, work))
    if replayed:
        answer.headers["Idempotent-Replayed"] = "true"
    return answer


@router.post("/api/v1/ledger/entries/batch", response_model=BatchAnswer)
async def post_entries(request: Request, body: BatchBody, access: Poster) -> Response:
    """Book up to 500 entries of one book: all or none, or each by itself, as `atomic` says."""
    await check_book(request, access, body.book)
    batch = _Batch(access, body)

    if idempotency_key(request) is None:
        return _answered(batch.answer(await _coalesced(request, batch.groups)), 200)

    async def work(tx: Tx) -> BatchAnswer:
        return batch.answer(await commands.post(tx, body.book, batch.groups))

    database = request.app.state.database
    return await tried_again(
        partial(answer_once, request, access, database, body, work, status=200)
    )


class _Batch:
    """The entries of a request as groups of commands, and the answer to what became of them.

    Attributes:
        groups: one of all entries, or one for each that could be read.
    """

    def __init__(self, access: Access, body: BatchBody) -> None:
        """Read the entries.

        Raises:
            InvalidFields: one is no entry, and all are to be booked or none.
        """
        self._atomic = body.atomic
        self._keys = [entry.source_key for entry in body.entries]
        self._unread: dict[int, Problem] = {}
        self._places: list[int] = []
        read = []
        for at, entry in enumerate(body.entries):
            try:
                read.append(_command(access, body.book, entry, f"body.entries.{at}"))
                self._places.append(at)
            except InvalidFields as problem:
                if self._atomic:
                    raise
                self._unread[at] = problem
        self.groups: list[Group] = [read] if self._atomic else [[command] for command in read]

    def answer(self, verdicts: Sequence[Verdict]) -> BatchAnswer:
        """The verdicts on the groups as verdicts on the entries.

        Raises:
            Problem: nothing was booked of entries that are booked all or none.
        """
        paths = [f"body.entries.{at}" for at in self._places]
        if self._atomic:
            booked = _entries(verdicts[0], self.groups[0], paths)
            return BatchAnswer(results=list(map(self._posted, self._places, booked)))
        results = {at: self._refused(at, problem) for at, problem in self._unread.items()}
        for at, path, group, verdict in zip(
            self._places, paths, self.groups, verdicts, strict=True
        ):
            try:
                (posted,) = _entries(verdict, group, [path])
                results[at] = self._posted(at, posted)
            except (Conflict, InvalidFields, Unavailable) as problem:
                results[at] = self._refused(at, problem)
        return BatchAnswer(results=[results[at] for at in range(len(self._keys))])

    def _posted(self, at: int, posted: Posted) -> EntryVerdict:
        status: Literal["posted", "known"] = "posted" if posted.is_new else "known"
        return EntryVerdict(source_key=self._keys[at], status=status, entry=_shown(posted))

    def _refused(self, at: int, problem: Problem) -> EntryVerdict:
        refusal = RefusalBody(code=problem.code, detail=problem.detail, fields=list(problem.fields))
        return EntryVerdict(source_key=self._keys[at], status="refused", refusal=refusal)


async def _coalesced_alone(request: Request, group: Group) -> Verdict:
    """The verdict on a group that is booked along with those of other callers."""
    coalescer: Coalescer = request.app.state.coalescer
    try:
        return await coalescer.post(group)
    except Exception as error:  # noqa: BLE001 - it is the verdict
        return error


async def _coalesced(request: Request, groups: Sequence[Group]) -> list[Verdict]:
    """The verdicts on groups that are booked along with those of other callers."""
    coalescer: Coalescer = request.app.state.coalescer
    verdicts: list[Verdict] = []
    found = await asyncio.gather(*map(coalescer.post, groups), return_exceptions=True)
    for verdict in found:
        if isinstance(verdict, BaseException) and not isinstance(verdict, Exception):
            raise verdict
        verdicts.append(verdict)
    return verdicts


def _command(access: Access, book: Book, body: EntryBody, path: str) -> Command:
    """The command that a body is.

    Raises:
        InvalidFields: it is no entry that could be booked; the fields begin with `path`.
    """
    now = business_now(access.tenant, access.mode)
    effective_at = body.effective_at or now
    check_effective_at(effective_at, now, f"{path}.effective_at")
    lines = []
    for at, line in enumerate(body.postings):
        try:
            account = chart.named(line.account)
        except UnknownAccountError:
            fields = _at(f"{path}.postings.{at}.account", NO_ACCOUNT)
            raise InvalidFields(code="unknown_account", fields=fields) from None
        lines.append(Line(account, line.side, line.amount_minor, line.currency))
    try:
        entry = Entry(book, KEY_SPACE + body.source_key, POST_RULE, tuple(lines))
    except UnbalancedError:
        fields = _at(f"{path}.postings", "Debits and credits differ in a currency.")
        raise InvalidFields(code="unbalanced", fields=fields) from None
    caller = access.caller
    return Command(
        tenant_id=access.tenant_id,
        mode=access.mode,
        entry=entry,
        effective_at=effective_at,
        is_dated=body.effective_at is not None,
        metadata=masked_fields(body.metadata) or {},
        actor=caller.actor,
        is_audited=caller.operator or caller.session_id is not None,
        remote_address=remote_address(),
        trace=inject(),
    )


def _at(field: str, detail: str) -> list[FieldProblem]:
    return [FieldProblem(field=field, detail=detail)]


def _entries(verdict: Verdict, group: Group, paths: Sequence[str]) -> list[Posted]:
    """The entries that a verdict holds.

    Args:
        paths: of the group's commands in the body.

    Raises:
        Problem: what the verdict on the group says instead.
    """
    if not isinstance(verdict, Exception):
        return verdict
    if isinstance(verdict, RefusedError):
        _refuse(verdict, group, paths)
    if isinstance(verdict, OverrunError):
        raise AccountWouldOverrun.told(verdict) from None
    if isinstance(verdict, LineFullError):
        raise Unavailable(
            "Too many entries wait to be booked; nothing was done. Send it again shortly.",
            code="too_busy",
            retry_after_seconds=1,
        ) from None
    if isinstance(verdict, OverdueError):
        raise Unavailable(
            "Booking takes too long, and whether it happens is open. Send the same again: a source "
            "key is booked once.",
            code="too_slow",
            retry_after_seconds=2,
        ) from None
    raise verdict


def _refuse(error: RefusedError, group: Group, paths: Sequence[str]) -> NoReturn:
    """Tell of a refusal, and which field it is about.

    Raises:
        Problem: always.
    """
    at = next(
        place for place, each in enumerate(group) if each.entry.source_key == error.source_key
    )
    path = paths[at]
    if isinstance(error, OtherContentError):
        raise Conflict(
            "This source key is booked with other content. `GET /api/v1/ledger/entries` with "
            "`source_key=api:<source_key>` shows it. Something else needs a key of its own.",
            code="source_key_taken",
            fields=_at(f"{path}.source_key", "Booked with other content."),
        ) from None
    assert isinstance(error, AccountError), "there are no other refusals"
    posting = next(
        place
        for place, line in enumerate(group[at].entry.lines)
        if line.account.code == error.account
    )
    field = f"{path}.postings.{posting}.account"
    if isinstance(error, FullAccountError):
        raise Conflict(
            "So much was booked on an account that its figures come near what can be held. Post on "
            "another one.",
            code="account_full",
            fields=_at(field, "Takes no more."),
        ) from None
    raise InvalidFields(code="unknown_account", fields=_at(field, NO_ACCOUNT)) from None


def _answered(answer: BaseModel, status: int) -> Response:
    """An answer written by its model, which takes half as long as by way of a dictionary."""
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _shown(posted: Posted) -> EntryAnswer:
    return entry_answer((posted.row, list(posted.postings)))
