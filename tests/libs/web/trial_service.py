"""A service with nothing of its own: what all services share, run as a process by the tests.

`python trial_service.py [hang] [hasty]`; with `hang` its lifespan never closes, with `hasty` heads must
come soon.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import asyncpg
import structlog
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.money import Money
from libs.observability.health import Check, Health
from libs.settings import ProcessSettings, load
from libs.web import problems, wire
from libs.web.limits import Limits
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.plain import PlainRoute
from libs.web.serve import create_app, serve

log = structlog.get_logger()


class Settings(ProcessSettings):
    service = "trial"


class Flat(BaseModel):
    kind: Literal["flat"]
    amount: Money


class Tiered(BaseModel):
    kind: Literal["tiered"]
    meter: str


class Thing(BaseModel):
    name: str = Field(max_length=20)
    price: Annotated[Flat | Tiered, Field(discriminator="kind")]


class Named(BaseModel):
    name: str


routes = APIRouter(prefix="/api/v1")
plain_routes = APIRouter(prefix="/api/v1", route_class=PlainRoute)
STORED = [f"thing-{number}" for number in range(7)]

FAILURES: dict[str, Exception] = {
    "unexpected": RuntimeError("postgresql://u:secret@h and sk_test_abc"),
    "database_down": ConnectionRefusedError("127.0.0.1:5432"),
    "database_slow": TimeoutError(),
    "database_going": asyncpg.CannotConnectNowError("starting up"),
    "nul": asyncpg.CharacterNotInRepertoireError("invalid byte sequence: 0x00"),
    "forbidden": problems.Forbidden("members:manage"),
    "forbidden_billing": problems.Forbidden("billing:manage"),
    "rate": problems.RateLimited(retry_after_seconds=7),
    "unauthorized": problems.Unauthorized(),
    "conflict": problems.Conflict("The slug is taken.", code="slug_taken", title="Slug taken"),
}


@routes.post("/things/{thing}")
async def create_thing(thing: UUID, body: Thing) -> Thing:
    del thing
    return body


@routes.get("/things")
async def list_things(page: Annotated[PageRequest, Depends(page_request)]) -> Page[Named]:
    after = page.after(str)
    rows = [name for name in STORED if after is None or name > after[0]][: page.limit + 1]
    return Page[Named].of(rows, page.limit, lambda name: (name,), lambda name: Named(name=name))


@routes.get("/dated", responses=problems.problem_responses(problems.NotFound))
async def list_dated(page: Annotated[PageRequest, Depends(page_request)]) -> list[str]:
    return [str(part) for part in page.after(datetime, UUID, int) or ()]


@routes.get("/failures/{kind}")
async def fail(kind: str) -> None:
    raise FAILURES[kind]


@routes.post("/raw")
@routes.post("/large/raw", name="count_large_bytes")
async def count_bytes(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@routes.post("/seen")
async def name_headers(request: Request) -> list[str]:
    await request.body()
    return sorted(request.headers)


@routes.get("/slow")
async def answer_slowly() -> dict[str, bool]:
    log.info("slow_answer_begun")
    await asyncio.sleep(1)
    return {"done": True}


@routes.get("/brief")
async def answer_briefly() -> dict[str, bool]:
    await asyncio.sleep(0.05)
    return {"done": True}


@routes.post("/begun")
async def begin_to_answer() -> StreamingResponse:
    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"begun"
        await asyncio.sleep(600)

    return StreamingResponse(parts())


@plain_routes.post("/plain/{name}", response_model=Named)
async def name_plainly(request: Request, name: str) -> Response:
    body = await request.body()
    if body in [kind.encode() for kind in FAILURES]:
        raise FAILURES[body.decode()]
    return Response(Named(name=name).model_dump_json(), media_type="application/json")


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=20)]
    times: Annotated[int, Field(ge=1, le=3)] = 1


@plain_routes.get("/plainly", response_model=Named)
async def ask_plainly(request: Request, wanted: Annotated[Wanted, Query()]) -> Response:
    del request
    answer = Named(name=wanted.name * wanted.times)
    return Response(answer.model_dump_json(), media_type="application/json")


def build() -> FastAPI:
    health = Health()
    health.register("postgres", lambda: Check(ok=True))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        if "hang" in sys.argv:
            await asyncio.sleep(600)

    limits = Limits(
        body_bytes_max=10_000,
        body_bytes_max_by_prefix={"/api/v1/large/": 50_000},
        body_timeout_seconds=1,
    )
    return create_app(
        "Trial",
        health=health,
        routers=[routes],
        plain_routers=[plain_routes],
        lifespan=lifespan,
        limits=limits,
    )


if __name__ == "__main__":
    if "hasty" in sys.argv:
        wire.HEAD_SECONDS = 0.5
    serve(build, load(Settings), stop_seconds=3)
