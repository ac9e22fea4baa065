"""`/api/v1/ledger/export`: a book as a file."""

from collections.abc import AsyncGenerator
from typing import IO, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import iterate_in_threadpool
from starlette.types import Receive, Scope, Send

from libs.directory.local import Directory
from libs.web.problems import (
    Forbidden,
    InvalidFields,
    NotFound,
    RateLimited,
    problem_responses,
)
from libs.web.times import UtcTime
from services.ledger import exports, exports_parquet, exports_plain, exports_rows
from services.ledger.exports import (
    BusyError,
    Export,
    Format,
    NoBookNamedError,
    NoDecimalsError,
    Wanted,
)
from services.ledger.routes import CurrencyQuery, Reading

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden, NotFound, RateLimited))

NEXT_AFTER_HEADER = "Sluice-Next-After"
CHUNK_BYTES = 256 * 1024
MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "jsonl": "application/jsonl; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "hledger": "text/plain; charset=utf-8",
    "beancount": "text/plain; charset=utf-8",
}
EXTENSIONS: dict[Format, str] = {
    "csv": "csv",
    "jsonl": "jsonl",
    "parquet": "parquet",
    "hledger": "journal",
    "beancount": "beancount",
}


@router.get(
    "/api/v1/ledger/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The entries in the order of the book's chain, as of one moment. Where "
            f"there are more than one export holds, `{NEXT_AFTER_HEADER}` is the `after` to go on "
            "with.",
            "content": {
                media_type.split(";")[0]: {"schema": {"type": "string"}}
                for media_type in MEDIA_TYPES.values()
            },
        }
    },
)
async def export_ledger(
    request: Request,
    reader: Reading,
    export_format: Annotated[
        Format,
        Query(
            alias="format",
            description="`csv` and `parquet`: a row per posting. `jsonl`: a line per entry. "
            "`hledger` and `beancount`: a journal that these programs read.",
        ),
    ] = "csv",
    effective_from: Annotated[
        UtcTime | None, Query(alias="from", description="Only what holds from this time on.")
    ] = None,
    effective_to: Annotated[
        UtcTime | None, Query(alias="to", description="Only what holds before this time.")
    ] = None,
    currency: CurrencyQuery = None,
    after: Annotated[
        int, Query(ge=0, le=2**53, description="Only entries after this number of the chain.")
    ] = 0,
) -> StreamingResponse:
    """A tenant's book as a file, at most 100,000 entries at a time; operators name the tenant."""
    if effective_from is not None and effective_to is not None and effective_from >= effective_to:
        raise InvalidFields("`from` must be before `to`.")
    wanted = Wanted(effective_from, effective_to, currency, after)
    try:
        export = await exports.begin(reader, wanted, export_format)
    except NoBookNamedError:
        raise InvalidFields("Name the tenant by `X-Tenant-ID`: a file holds one book.") from None
    except NoDecimalsError as error:
        raise InvalidFields(
            f"The book has postings in {error}, whose decimals ISO 4217 does not give. Export it "
            "as `csv`, in minor units."
        ) from None
    directory: Directory = request.app.state.directory
    tenant = await directory.by_id(export.place[0])
    slug = tenant.snapshot.slug if tenant else str(export.place[0])
    name = f"ledger-{slug}-{reader.mode}-{reader.book}"
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{name}.{EXTENSIONS[export_format]}"',
    }
    if export.next_after is not None:
        headers[NEXT_AFTER_HEADER] = str(export.next_after)
    tenant_id = export.place[0]
    try:
        exports.enter(tenant_id)
    except BusyError:
        raise RateLimited(
            "Too many files are being made right now; at most two of a tenant are at a time. Try "
            "again shortly.",
            code="too_many_exports",
            retry_after_seconds=10,
        ) from None
    try:
        content = await _content(export, export_format, name)
        return _File(tenant_id, content, media_type=MEDIA_TYPES[export_format], headers=headers)
    except BaseException:
        exports.leave(tenant_id)
        raise


class _File(StreamingResponse):
    """A file that is made while it is sent; it leaves its place however that ends."""

    def __init__(
        self, tenant_id: UUID, content: AsyncGenerator[str | bytes, None], **how: Any
    ) -> None:
        super().__init__(content, **how)
        self._tenant_id = tenant_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            exports.leave(self._tenant_id)


async def _content(
    export: Export, export_format: Format, name: str
) -> AsyncGenerator[str | bytes, None]:
    """The file, piece by piece."""
    match export_format:
        case "csv":
            return exports_rows.csv_of(export.pages())
        case "jsonl":
            return exports_rows.json_lines_of(export.pages())
        case "parquet":
            return _read(await exports_parquet.make(export.pages()))
        case plain:
            return exports_plain.journal_of(export, plain, name)


async def _read(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    with file:
        async for chunk in iterate_in_threadpool(iter(lambda: file.read(CHUNK_BYTES), b"")):
            yield chunk
