"""`Idempotency-Key`: the same request sent again gets the first answer, and has no second effect.

The key is entered in the transaction of the work, so either both hold or neither. A concurrent twin
waits for the first and reads its answer. The same key with another body is refused with 409.

What an answer says of a person is not kept: whoever sends the request again says it again.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from libs.db.pool import Database, Tx
from libs.web.auth import Access
from libs.web.problems import IdempotencyMismatch, InvalidRequest

KEY_LENGTH_MAX = 255


def idempotency_key(request: Request) -> str | None:
    """The client's key as it is kept, or None: a digest, for clients put anything into it.

    Raises:
        InvalidRequest: it is empty, longer than 255 characters, or not printable ASCII.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
        raise InvalidRequest("`Idempotency-Key` must be 1 to 255 printable ASCII characters.")
    return hashlib.sha256(key.encode()).hexdigest()


def request_hash(request: Request, body: BaseModel) -> bytes:
    """What makes two requests the same: method, path and the parsed body."""
    text = f"{request.method} {request.url.path}\n{body.model_dump_json()}"
    return hashlib.sha256(text.encode()).digest()


async def answer_once(
    request: Request,
    access: Access,
    database: Database,
    body: BaseModel,
    work: Callable[[Tx], Awaitable[BaseModel]],
    *,
    status: int = 201,
    personal: Collection[str] = (),
) -> JSONResponse:
    """Run `work` in one transaction for the tenant, once per key, and answer with its result.

    Args:
        personal: fields that the answer takes from the request as they are, and that tell of people.

    Raises:
        IdempotencyMismatch: the key was used with another request.
    """
    key = idempotency_key(request)
    async with database.tenant(access.tenant_id, access.mode, books=access.books) as tx:
        if key is not None:
            stored = await reserve(tx, access, key, request_hash(request, body))
            if stored is not None:
                return said_again(stored, body, personal)
        answer = (await work(tx)).model_dump(mode="json", by_alias=True)
        if key is not None:
            await remember(tx, access, key, status, without(answer, personal))
    return JSONResponse(answer, status)


def without(answer: Mapping[str, Any], personal: Collection[str]) -> dict[str, Any]:
    """An answer as it is kept."""
    return {name: value for name, value in answer.items() if name not in personal}


def said_again(stored: JSONResponse, body: BaseModel, personal: Collection[str]) -> JSONResponse:
    """The first answer, with what is not kept of it from the same request that is here again."""
    if not personal:
        return stored
    kept: dict[str, Any] = json.loads(bytes(stored.body))
    said = body.model_dump(mode="json", include=set(personal))
    headers = {"Idempotent-Replayed": "true"}
    return JSONResponse(kept | said, stored.status_code, headers=headers)


async def reserve(tx: Tx, access: Access, key: str, digest: bytes) -> JSONResponse | None:
    """Enter the key; the stored answer when the same request has been answered already.

    None means: do the work (the key is new, or an earlier try did not come to an answer).

    Raises:
        IdempotencyMismatch: the key belongs to another request.
    """
    await tx.execute(
        """
        insert into idempotency_key (tenant_id, mode, caller, key, request_hash)
        values ($1, $2, $3, $4, $5) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        access.caller.actor,
        key,
        digest,
    )
    row = await tx.fetchrow(
        "select request_hash, status, answer from idempotency_key "
        "where tenant_id = $1 and mode = $2 and caller = $3 and key = $4 for update",
        tx.tenant_id,
        tx.mode,
        access.caller.actor,
        key,
    )
    assert row is not None, "the key was entered above"
    if row["request_hash"] != digest:
        raise IdempotencyMismatch
    if row["status"] is None:
        return None
    return JSONResponse(row["answer"], row["status"], headers={"Idempotent-Replayed": "true"})


async def remember(tx: Tx, access: Access, key: str, status: int, answer: object) -> None:
    """Keep the answer for the next time the key is sent."""
    await tx.execute(
        "update idempotency_key set status = $5, answer = $6 "
        "where tenant_id = $1 and mode = $2 and caller = $3 and key = $4",
        tx.tenant_id,
        tx.mode,
        access.caller.actor,
        key,
        status,
        answer,
    )
