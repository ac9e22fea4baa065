"""`/api/v1/ledger/export`: a book as a file."""

from collections.abc import AsyncGenerator
from typing import IO, Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import iterate_in_threadpool

from libs.directory.local import Directory
from libs.web.problems import Forbidden, InvalidFields, NotFound, problem_responses
from libs.web.times import UtcTime
from services.ledger import exports, exports_parquet, exports_plain, exports_rows
from services.ledger.exports import Export, Format, NoBookNamedError, NoDecimalsError, Wanted
from services.ledger.routes import CurrencyQuery, Reading

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden, NotFound))

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
    content = await _content(export, export_format, name)
    return StreamingResponse(content, media_type=MEDIA_TYPES[export_format], headers=headers)


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
