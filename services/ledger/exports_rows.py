"""A book's postings as rows: CSV for spreadsheets, JSON lines and Parquet for programs.

Amounts are whole minor units, always positive; `side` says which side. `balance_after_minor` is
debits less credits of the account and currency, as the book keeps it.
"""

import csv
import io
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from typing import Any

from libs.clock import format_time
from libs.db.pool import Row
from libs.ids import public_id

COLUMNS: dict[str, str] = {
    "chain_seq": "BIGINT",
    "entry_id": "VARCHAR",
    "book": "VARCHAR",
    "source_key": "VARCHAR",
    "rule": "VARCHAR",
    "rule_version": "INTEGER",
    "reverses": "VARCHAR",
    "effective_at": "VARCHAR",
    "booked_at": "VARCHAR",
    "belongs_to": "VARCHAR",
    "true_effective_at": "VARCHAR",
    "line": "INTEGER",
    "account": "VARCHAR",
    "side": "VARCHAR",
    "amount_minor": "BIGINT",
    "currency": "VARCHAR",
    "account_seq": "BIGINT",
    "balance_after_minor": "BIGINT",
    "causation_id": "VARCHAR",
    "chain_hash": "VARCHAR",
}
"""The columns of a row, with what DuckDB calls their types."""

_OF_POSTING = ("line", "account", "side", "amount_minor", "currency", "account_seq")
_POSTING = (*_OF_POSTING, "balance_after_minor")
_ENTRY = tuple(name for name in COLUMNS if name not in _POSTING)

# A cell that begins so, also in full width, is a formula to a spreadsheet (OWASP, "CSV injection").
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def row_of(row: Row) -> dict[str, Any]:
    """A posting with its entry."""
    shown = {name: row[name] for name in COLUMNS if name != "entry_id"}
    shown["entry_id"] = public_id("entry", row["id"])
    shown["reverses"] = public_id("entry", row["reverses"]) if row["reverses"] else None
    for name in ("effective_at", "booked_at", "true_effective_at"):
        shown[name] = format_time(row[name]) if row[name] else None
    shown["causation_id"] = str(row["causation_id"])
    shown["chain_hash"] = row["chain_hash"].hex()
    return {name: shown[name] for name in COLUMNS}


async def csv_of(pages: AsyncIterable[Sequence[Row]]) -> AsyncGenerator[str, None]:
    """A line per posting, under a line of names."""
    yield _csv_lines([list(COLUMNS)])
    async for rows in pages:
        yield _csv_lines([[_cell(value) for value in row_of(row).values()] for row in rows])


async def json_lines_of(pages: AsyncIterable[Sequence[Row]]) -> AsyncGenerator[str, None]:
    """A line per entry, with its postings in it."""
    async for rows in pages:
        lines = []
        for _, of_entry in itertools.groupby(rows, key=lambda row: row["chain_seq"]):
            shown = [row_of(row) for row in of_entry]
            entry = {name: shown[0][name] for name in _ENTRY}
            entry["postings"] = [{name: each[name] for name in _POSTING} for each in shown]
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
        yield "".join(lines)


def _cell(value: Any) -> str:
    """A value as the text of a cell; no text is one that a spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return str(value)


def _csv_lines(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
