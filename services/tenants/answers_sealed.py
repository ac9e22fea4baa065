"""An answer that shows a secret: the same request under the same key gets the same secret again.

`Idempotency-Key` would keep the whole answer, so the secret in it is sealed under the tenant's key, and
what tells of a person is left out: whoever sends the request again says it again.
"""

import base64
import json
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from libs.clock import utc_now
from libs.db.pool import Database, Tx
from libs.web.auth import Access
from libs.web.idempotency import (
    idempotency_key,
    remember,
    request_hash,
    reserve,
    said_again,
    without,
)
from services.tenants import sealing, store_sealed
from services.tenants.settings import Settings

Shown = tuple[BaseModel, str | None]
"""What is answered, and the secret beside it, where there is one."""


async def answer_sealed_once(
    request: Request,
    access: Access,
    body: BaseModel,
    work: Callable[[Tx], Awaitable[Shown]],
    *,
    field: str,
    personal: Collection[str] = (),
) -> JSONResponse:
    """Run `work` in one transaction for the tenant, once per key; 201 with the secret in `field`.

    Args:
        personal: fields that the answer takes from the request as they are, and that tell of people.

    Raises:
        IdempotencyMismatch: the key was used with another request.
    """
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    sealer = sealing.Sealer(database, settings.sealing)
    name = idempotency_key(request)
    sealing_key = await sealer.prepare(access.tenant_id, utc_now()) if name is not None else None
    async with database.tenant(access.tenant_id, access.mode) as tx:
        stored = None
        if name is not None:
            stored = await reserve(tx, access, name, request_hash(request, body))
        if stored is None:
            made, secret = await work(tx)
            shown = made.model_dump(mode="json")
            answer = JSONResponse(shown | {field: secret}, 201)
            if name is not None and sealing_key is not None:
                kept = without(shown, personal)
                if secret is not None:
                    place = place_of(access, name, field, shown["id"])
                    sealed = sealing_key.seal(secret.encode(), place).value
                    kept[f"{field}_sealed"] = base64.b64encode(sealed).decode()
                await remember(tx, access, name, 201, kept)
    if stored is not None:
        assert name is not None, "an answer is stored under its key"
        answer = await _opened(sealer, access, name, said_again(stored, body, personal), field)
    answer.headers["Cache-Control"] = "no-store"
    return answer


async def _opened(
    sealer: sealing.Sealer, access: Access, name: str, stored: JSONResponse, field: str
) -> JSONResponse:
    """The first answer again, its secret opened."""
    shown: dict[str, Any] = json.loads(bytes(stored.body))
    sealed, secret = shown.pop(f"{field}_sealed", None), None
    if sealed is not None:
        place = place_of(access, name, field, shown["id"])
        opened = await sealer.open(access.tenant_id, base64.b64decode(sealed), place)
        secret = opened.decode()
    headers = {"Idempotent-Replayed": "true"}
    return JSONResponse(shown | {field: secret}, stored.status_code, headers=headers)


def place_of(access: Access, name: str, field: str, shown_id: str) -> sealing.Place:
    """It opens as this caller's answer, in this mode, under this key, and nowhere else."""
    row = store_sealed.answer_row(access.mode, access.caller.actor, name, shown_id)
    return sealing.Place("idempotency_key", f"answer.{field}", row, shown_id)
