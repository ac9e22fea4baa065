"""What Stripe answered at each stage of a subscription's life, played back for many lives at once.

The life is lived once at the real sandbox, and every answer that the mirror would ask for is kept.
Played back, each life has ids and a tenant of its own and is at a stage of its own.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from services.stripe_sync import fetching
from services.stripe_sync.client import Json, StripeApi, StripeTransientError
from services.stripe_sync.walks import LISTS

_STRIPE_ID = re.compile(
    r"\"((?:ch|cs|cus|evt|il|ii|in|inpay|pi|pm|price|prod|re|si|sub|txn)_[A-Za-z0-9_]+)\""
)
_NUMBER = re.compile(r"x(\d{4})x")
MOVEMENTS, EVENTS = "/v1/balance_transactions", "/v1/events"
LISTED = {path for path, _ in LISTS.values()}
WHICH_PART = {"created", "limit", "starting_after"}
"""Parameters that choose a part of a list."""


@dataclass(frozen=True)
class Life:
    """One life: its number, and whose it is."""

    number: int
    tenant_id: UUID
    customer_id: UUID

    @property
    def suffix(self) -> str:
        """What tells its ids from those of other lives."""
        return f"x{self.number:04d}x"


@dataclass
class Recording:
    """Answers by stage, as text in which ids and the tenant are left open."""

    tenant_id: UUID
    customer_id: UUID
    answers: list[dict[str, str]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    async def stage(self, api: StripeApi, objects: list[tuple[str, str]], event: Json) -> None:
        """Keep what Stripe answers now, and the event that comes now."""
        writer = _Writer(api)
        for kind, object_id in objects:
            found = await fetching.fetch(writer, kind, object_id, holds=False)  # type: ignore[arg-type]
            assert found is not None
            if kind == "payment_intent":
                payment = fetching.Unplaced(object_id, found.raw["customer"], 0)
                await fetching.find_origins(writer, [payment])  # type: ignore[arg-type]
        await writer.list_all(
            "balance_transaction.list",
            MOVEMENTS,
            {"expand": ["data.source"]},
            pages_max=1,
        )
        self.answers.append({key: self._open(answer) for key, answer in writer.seen.items()})
        self.events.append(self._open(event))

    def _open(self, answer: Any) -> str:
        text = _STRIPE_ID.sub(r'"\1<life>"', json.dumps(answer))
        return text.replace(str(self.tenant_id), "<tenant>").replace(
            str(self.customer_id), "<customer>"
        )


def fill(text: str, life: Life) -> Any:
    """An answer, or an event, as this life has it."""
    text = text.replace("<life>", life.suffix).replace("<tenant>", str(life.tenant_id))
    return json.loads(text.replace("<customer>", str(life.customer_id)))


def plain(text: str, life: Life) -> str:
    """What was kept of a life, without what tells it from other lives."""
    text = text.replace(life.suffix, "").replace(str(life.tenant_id), "<tenant>")
    return text.replace(str(life.customer_id), "<customer>")


def _key(path: str, params: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in params.items() if name not in WHICH_PART}
    return f"{path} {json.dumps(kept, sort_keys=True)}"


def _page(found: list[Json], params: Mapping[str, Any]) -> Json:
    ids = [entry["id"] for entry in found]
    after = params.get("starting_after")
    start = ids.index(after) + 1 if after else 0
    end = start + params["limit"]
    return {"data": found[start:end], "has_more": end < len(found)}


@dataclass
class _Writer:
    """Asks Stripe and keeps the answers."""

    api: StripeApi
    seen: dict[str, Any] = field(default_factory=dict)

    async def get(self, operation: str, path: str, params: Mapping[str, Any] | None = None) -> Json:
        answer = await self.api.get(operation, path, params)
        self.seen[_key(path, params or {})] = json.loads(json.dumps(answer))
        return answer

    async def list_all(
        self, operation: str, path: str, params: Mapping[str, Any], *, pages_max: int
    ) -> list[Json]:
        answer = await self.api.list_all(operation, path, params, pages_max=pages_max)
        self.seen[_key(path, params)] = answer
        return answer


@dataclass
class Playback:
    """Stripe, as far as the mirror asks for it: every life at its own stage.

    Attributes:
        stages: how far each life has come, by its number.
        listed: the events that Stripe lists, the newest first.
    """

    recording: Recording
    lives: list[Life]
    stages: dict[int, int] = field(default_factory=dict)
    listed: list[Json] = field(default_factory=list)

    async def get(self, operation: str, path: str, params: Mapping[str, Any] | None = None) -> Json:
        """The answer of the life whose id is asked for, at its stage; or a page of all lives' money."""
        del operation
        if path == MOVEMENTS:
            return self._page_of_movements(params or {})
        if path == EVENTS:
            return _page(self.listed, params or {})
        if path in LISTED:
            raise StripeTransientError("list_too_long", path)
        key = _key(path, params or {})
        found = _NUMBER.search(key)
        assert found is not None, key
        life = self.lives[int(found.group(1))]
        answer: Json = fill(self._at(life)[key.replace(life.suffix, "")], life)
        return answer

    async def list_all(
        self, operation: str, path: str, params: Mapping[str, Any], **_: Any
    ) -> list[Json]:
        """Lists of all lives are too long to be read."""
        del operation, params
        raise StripeTransientError("list_too_long", path)

    def _page_of_movements(self, params: Mapping[str, Any]) -> Json:
        """Newest first, as Stripe lists them; every life's have the same few times."""
        key = _key(MOVEMENTS, params)
        lives = [life for life in self.lives if life.number in self.stages]
        found = [entry for life in lives for entry in fill(self._at(life)[key], life)]
        found.sort(key=lambda entry: entry["created"], reverse=True)
        return _page(found, params)

    def _at(self, life: Life) -> dict[str, str]:
        return self.recording.answers[self.stages[life.number]]
