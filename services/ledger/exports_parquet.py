"""A book's postings as a Parquet file, made by DuckDB from rows on disk: memory stays bounded."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterable, Sequence
from pathlib import Path
from typing import IO

from libs.db.pool import Row
from services.ledger.exports_rows import COLUMNS, row_of

MEMORY = "128MB"
AT_ONCE_MAX = 2
"""Files that are made at once by this process; who asks for more waits."""

_READ = ", ".join(f"{name}: '{kind}'" for name, kind in COLUMNS.items())
_WRITTEN = ", ".join(
    f"cast({name} as TIMESTAMPTZ) as {name}" if name.endswith("_at") else name for name in COLUMNS
)
_WRITE_ROWS = (
    f"copy (select {_WRITTEN} from read_json($1, format = 'newline_delimited', "  # noqa: S608
    f"columns = {{{_READ}}})) to $2 (format parquet, compression zstd)"
)

_making = asyncio.Semaphore(AT_ONCE_MAX)


async def make(pages: AsyncIterable[Sequence[Row]]) -> IO[bytes]:
    """The file, open and without a name: it is gone when it is closed."""
    async with _making:
        with tempfile.TemporaryDirectory(prefix="sluice-ledger-export-") as folder:
            draft, made = Path(folder, "rows"), Path(folder, "made")
            async for rows in pages:
                await asyncio.to_thread(_append, draft, rows)
            return await asyncio.to_thread(_make, draft, made)


def _append(draft: Path, rows: Sequence[Row]) -> None:
    with draft.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row_of(row)) + "\n" for row in rows)


def _make(draft: Path, made: Path) -> IO[bytes]:
    # The engine takes memory of its own: only a process that was asked for Parquet has it.
    import duckdb  # noqa: PLC0415

    draft.touch()
    with duckdb.connect(
        ":memory:",
        config={
            "threads": "1",
            "memory_limit": MEMORY,
            "temp_directory": str(draft.parent),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    ) as engine:
        engine.execute("set timezone = 'UTC'")
        engine.execute(_WRITE_ROWS, [str(draft), str(made)])
    return made.open("rb")
