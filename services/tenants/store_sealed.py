"""SQL of every sealed value, wherever it stands: what a rotation of data keys goes through.

A new sealed column is entered here; a test compares this list with the catalogue.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from libs.crypto.sealed import header_of
from libs.db.pool import Tx

ANSWER_SUFFIX = "_sealed"
"""A kept answer holds the sealed value of its field `x` as `x_sealed`."""


@dataclass(frozen=True)
class Column:
    """A column of sealed values, beside a column `data_key_id`.

    Attributes:
        row_id: SQL of the row's id as the sealed value is bound to it.
        bound_table, bound_field: what the sealed value is bound to besides.
    """

    table: str
    column: str
    row_id: str
    bound_table: str
    bound_field: str


COLUMNS = (
    Column("signing_key", "private_key_sealed", "key_id", "signing_key", "private_key"),
    Column("connection_secret", "sealed", "secret_id::text", "connection_secret", "value"),
)


@dataclass(frozen=True)
class Found:
    """A sealed value and where it stands.

    Attributes:
        owner: of a kept answer: its caller and key.
    """

    value: bytes
    table: str
    field: str
    row_id: str
    column: Column | None = None
    owner: tuple[str, str] | None = None


async def values_under(tx: Tx, column: Column, keys: Sequence[UUID], limit: int) -> list[Found]:
    """Values of a column that are sealed under one of these keys."""
    rows = await tx.fetch(
        f"select {column.row_id} as row_id, {column.column} as value from {column.table} "  # noqa: S608
        f"where tenant_id = $1 and data_key_id = any($2::uuid[]) and {column.column} is not null "
        "order by 1 limit $3",
        tx.tenant_id,
        list(keys),
        limit,
    )
    return [
        Found(row["value"], column.bound_table, column.bound_field, row["row_id"], column)
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
    """Sealed values in kept answers of the mode in scope, under one of these keys."""
    rows = await tx.fetch(
        "select caller, key, answer from idempotency_key "
        "where tenant_id = $1 and mode = $2 and strpos(answer::text, $3) > 0 "
        "order by created_at, caller, key limit 10000",
        tx.tenant_id,
        tx.mode,
        f'{ANSWER_SUFFIX}"',
    )
    found: list[Found] = []
    for row in rows:
        for field, value in _sealed_fields(row["answer"]):
            if header_of(value).data_key_id in keys and len(found) < limit:
                place = f"answer.{field}", row["answer"]["id"]
                owner = (row["caller"], row["key"])
                found.append(Found(value, "idempotency_key", *place, owner=owner))
    return found


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
    return [
        (name.removesuffix(ANSWER_SUFFIX), base64.b64decode(value))
        for name, value in answer.items()
        if name.endswith(ANSWER_SUFFIX)
    ]
