"""The audit log as a file: CSV for spreadsheets, JSON lines for programs."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

from libs.db.pool import Row
from libs.ids import public_id

Format = Literal["csv", "jsonl"]

MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "jsonl": "application/jsonl; charset=utf-8",
}
COLUMNS = (
    "seq",
    "id",
    "occurred_at",
    "kind",
    "action",
    "actor",
    "object_id",
    "remote_address",
    "service",
    "mode",
    "before",
    "after",
    "data",
    "previous_hash",
    "hash",
)
# A cell that begins so, also in full width, is a formula to a spreadsheet (OWASP, "CSV injection").
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def header_of(wanted: Format) -> str:
    """What stands before the first entry."""
    return _csv_lines([COLUMNS]) if wanted == "csv" else ""


def lines_of(rows: Sequence[Row], wanted: Format) -> str:
    """The entries as text, a line each."""
    entries = [shown(row) for row in rows]
    if wanted == "jsonl":
        return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    return _csv_lines([[_cell(entry[name]) for name in COLUMNS] for entry in entries])


def shown(row: Row) -> dict[str, Any]:
    """An entry with its hashes, so that whoever keeps the file can check the chain later."""
    content = row["content"]
    data = dict(content["data"])
    return {
        "seq": row["seq"],
        "id": public_id("audit", row["event_id"]),
        "occurred_at": content["occurred_at"],
        "kind": row["kind"],
        "action": row["action"],
        "actor": row["actor"],
        "object_id": row["object_id"],
        "remote_address": data.get("remote_address"),
        "service": content["source"],
        "mode": content["mode"],
        "before": data.get("before"),
        "after": data.get("after"),
        "data": data,
        "previous_hash": row["previous_hash"].hex(),
        "hash": row["hash"].hex(),
    }


def _cell(value: Any) -> str:
    """A value as the text of a cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _csv_lines(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
