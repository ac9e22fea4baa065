"""Pages by cursor: the sort key of the last item, opaque to the caller, never an offset.

A list route takes `page: Annotated[PageRequest, Depends(page_request)]`, reads `page.limit + 1` rows
after `page.after(…)` and answers `Page.of(rows, page.limit, key)`:

    position = page.after(datetime, UUID)          # None on the first page
    rows = await store.list_invoices(tx, after=position, limit=page.limit + 1)
    return Page[InvoiceBody].of(rows, page.limit, lambda row: (row.created_at, row.id), shape)
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Field

from libs.web.problems import InvalidRequest

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
CURSOR_LENGTH_MAX = 1024
_INTEGER_MAX = 2**63 - 1

SortValue = str | int | datetime | UUID
T = TypeVar("T", bound=BaseModel)
R = TypeVar("R")


class InvalidCursor(InvalidRequest):
    """400: the cursor is not one that this list gave out."""

    default_code = "invalid_cursor"
    default_title = "Invalid cursor"
    default_detail = (
        "This `cursor` is not valid here. Start again without it and follow `next_cursor`."
    )


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last."""

    items: list[T]
    next_cursor: str | None = Field(
        default=None, description="Pass as `cursor` to read the next page; null at the end."
    )

    @classmethod
    def of(
        cls,
        rows: Sequence[R],
        limit: int,
        key: Callable[[R], Sequence[SortValue]],
        shape: Callable[[R], T],
    ) -> "Page[T]":
        """The page that `rows` make, where up to `limit + 1` of them were read.

        Args:
            rows: in the list's order; one more than `limit` tells that another page exists.
            limit: items on a page.
            key: the sort key of a row, the same values in the same order as the query compares.
            shape: the row as the API shows it.
        """
        shown = rows[:limit]
        cursor = encode_cursor(key(shown[-1])) if len(rows) > limit and shown else None
        return cls(items=[shape(row) for row in shown], next_cursor=cursor)


@dataclass(frozen=True)
class PageRequest:
    """What the caller asked for."""

    limit: int = LIMIT_DEFAULT
    cursor: str | None = None

    def after(self, *kinds: type[SortValue]) -> tuple[Any, ...] | None:
        """The sort key to go on after, or None on the first page.

        Raises:
            InvalidCursor: the cursor does not hold values of exactly these kinds.
        """
        return None if self.cursor is None else decode_cursor(self.cursor, *kinds)


def page_request(
    limit: Annotated[
        int, Query(ge=1, le=LIMIT_MAX, description="Items on a page.")
    ] = LIMIT_DEFAULT,
    cursor: Annotated[
        str | None,
        Query(max_length=CURSOR_LENGTH_MAX, description="`next_cursor` of the page before."),
    ] = None,
) -> PageRequest:
    """The dependency of a list route."""
    return PageRequest(limit, cursor)


def encode_cursor(key: Sequence[SortValue]) -> str:
    """The cursor after the item with this sort key."""
    values = [
        value.isoformat()
        if isinstance(value, datetime)
        else value
        if isinstance(value, int)
        else str(value)
        for value in key
    ]
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str, *kinds: type[SortValue]) -> tuple[Any, ...]:
    """The sort key inside a cursor.

    Raises:
        InvalidCursor: it is not one of ours, or holds other kinds of values than `kinds`.
    """
    if len(cursor) > CURSOR_LENGTH_MAX:
        raise InvalidCursor
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list):
            raise InvalidCursor
        return tuple(_read(value, kind) for value, kind in zip(values, kinds, strict=True))
    except (ValueError, binascii.Error, RecursionError, OverflowError):
        raise InvalidCursor from None


def _read(value: object, kind: type[SortValue]) -> SortValue:
    if kind is int:
        if type(value) is not int or abs(value) > _INTEGER_MAX:
            raise ValueError("not an integer that Postgres holds")
        return value
    # A NUL or half a surrogate pair is text to Python, but not to Postgres.
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("not text that Postgres holds")
    value.encode()
    if kind is datetime:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError("not an aware time")
        return at
    return UUID(value) if kind is UUID else value
