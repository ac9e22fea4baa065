"""SQL of every sealed value, wherever it stands: what a rotation of data keys goes through.

A new sealed column is entered here; a test compares this list with the catalogue.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from libs.crypto.errors import MalformedSealedValueError
from libs.crypto.sealed import header_of
from libs.db.pool import Row, Tx

log = structlog.get_logger()

ANSWERS_AT_ONCE = 1_000
ANSWER_SUFFIX = "_sealed"
"""A kept answer holds the sealed value of its field `x` as `x_sealed`."""


@dataclass(frozen=True)
class Column:
    """A column of sealed values, beside a column `data_key_id`.

    Attributes:
        row_id: SQL of the row's id.
        bound_row: SQL of the row as the sealed value is bound to it.
        former_row: SQL of the row as values from before are bound to it; null: as now.
        bound_table, bound_field: what the sealed value is bound to besides.
    """

    table: str
    column: str
    row_id: str
    bound_row: str
    former_row: str
    bound_table: str
    bound_field: str


COLUMNS = (
    Column(
        table="signing_key",
        column="private_key_sealed",
        row_id="key_id",
        bound_row="key_id",
        former_row="null::text",
        bound_table="signing_key",
        bound_field="private_key",
    ),
    Column(
        table="connection_secret",
        column="sealed",
        row_id="secret_id::text",
        bound_row="concat_ws('/', mode, name, secret_id)",
        former_row="secret_id::text",
        bound_table="connection_secret",
        bound_field="value",
    ),
)


@dataclass(frozen=True)
class Found:
    """A sealed value and where it stands.

    Attributes:
        table, field, bound_row: what it is bound to.
        former_row: what it may be bound to instead of `bound_row`, from before.
        row_id: of the row it stands in.
        owner: of a kept answer: its caller and key.
    """

    value: bytes
    table: str
    field: str
    bound_row: str
    former_row: str | None = None
    row_id: str | None = None
    column: Column | None = None
    owner: tuple[str, str] | None = None


async def values_under(tx: Tx, column: Column, keys: Sequence[UUID], limit: int) -> list[Found]:
    """Values of a column that are sealed under one of these keys."""
    rows = await tx.fetch(
        f"select {column.row_id} as row_id, {column.bound_row} as bound_row, "  # noqa: S608
        f"{column.former_row} as former_row, {column.column} as value from {column.table} "
        f"where tenant_id = $1 and data_key_id = any($2::uuid[]) and {column.column} is not null "
        "order by 1 limit $3",
        tx.tenant_id,
        list(keys),
        limit,
    )
    return [
        Found(
            row["value"],
            column.bound_table,
            column.bound_field,
            row["bound_row"],
            former_row=row["former_row"],
            row_id=row["row_id"],
            column=column,
        )
        for row in rows
    ]


async def replace_value(
    tx: Tx, found: Found, value: bytes, data_key_id: UUID, column: Column
) -> bool:
    """Store a value that was sealed anew; False when it has changed meanwhile."""
    replaced = await tx.execute(
        f"update {column.table} set {column.column} = $3, data_key_id = $4 "  # noqa: S608
        f"where tenant_id = $1 and {column.row_id} = $2 and {column.column} = $5",
        tx.tenant_id,
        found.row_id,
        value,
        data_key_id,
        found.value,
    )
    return replaced == 1


async def answers_under(tx: Tx, keys: Sequence[UUID], limit: int) -> list[Found]:
    """Sealed values in kept answers of the mode in scope, under one of these keys.

    Every kept answer is looked at, however many there are: the keys are destroyed when none is found.
    """
    found: list[Found] = []
    after = ("", "")
    while True:
        rows = await tx.fetch(
            "select caller, key, answer from idempotency_key "
            "where tenant_id = $1 and mode = $2 and strpos(answer::text, $3) > 0 "
            "and (caller, key) > ($4, $5) order by caller, key limit $6",
            tx.tenant_id,
            tx.mode,
            f'{ANSWER_SUFFIX}"',
            *after,
            ANSWERS_AT_ONCE,
        )
        for row in rows:
            found += _answer_under(tx.mode, row, keys)
            if len(found) >= limit:
                return found[:limit]
        if len(rows) < ANSWERS_AT_ONCE:
            return found
        after = (rows[-1]["caller"], rows[-1]["key"])


def answer_row(mode: str, caller: str, key: str, shown_id: str) -> str:
    """What a kept answer's sealed value is bound to: whose answer it is, and of what."""
    return f"{mode}/{caller}/{key}/{shown_id}"


def _answer_under(mode: str, row: Row, keys: Sequence[UUID]) -> Iterator[Found]:
    answer, owner = row["answer"], (row["caller"], row["key"])
    for field, value in _sealed_fields(answer):
        try:
            is_wanted = header_of(value).data_key_id in keys
        except MalformedSealedValueError:
            # No key opens it, so it needs none.
            log.error("kept_answer_malformed", field=field)  # noqa: TRY400 - no trace of the bytes
            continue
        if is_wanted:
            bound_row = answer_row(mode, *owner, answer["id"])
            yield Found(
                value,
                "idempotency_key",
                f"answer.{field}",
                bound_row,
                former_row=answer["id"],
                owner=owner,
            )


async def replace_answer(tx: Tx, found: Found, value: bytes) -> bool:
    """Store a kept answer's value that was sealed anew; False when it is gone."""
    assert found.owner is not None, "it was found in an answer"
    field = found.field.removeprefix("answer.") + ANSWER_SUFFIX
    replaced = await tx.execute(
        "update idempotency_key set answer = jsonb_set(answer, array[$5::text], to_jsonb($6::text)) "
        "where tenant_id = $1 and mode = $2 and caller = $3 and key = $4 and answer ->> $5 = $7",
        tx.tenant_id,
        tx.mode,
        *found.owner,
        field,
        base64.b64encode(value).decode(),
        base64.b64encode(found.value).decode(),
    )
    return replaced == 1


async def delete_answers(tx: Tx) -> None:
    """Delete the kept answers of the mode in scope that hold a sealed value."""
    await tx.execute(
        "delete from idempotency_key "
        "where tenant_id = $1 and mode = $2 and strpos(answer::text, $3) > 0",
        tx.tenant_id,
        tx.mode,
        f'{ANSWER_SUFFIX}"',
    )


def _sealed_fields(answer: dict[str, Any]) -> list[tuple[str, bytes]]:
    found = []
    for name, value in answer.items():
        if name.endswith(ANSWER_SUFFIX):
            try:
                sealed = base64.b64decode(value, validate=True)
            except (TypeError, binascii.Error, ValueError):
                sealed = b""
            found.append((name.removesuffix(ANSWER_SUFFIX), sealed))
    return found
