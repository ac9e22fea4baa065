"""Twenty-two kinds of bad webhooks at a gateway process, over a real socket.

Each has a stated answer and a stated effect. No answer shows a secret or a stack, and each request
leaves one line of the log that says how it was answered.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from libs.ids import new_id
from libs.testing.databases import clone
from tests.services.gateway.accounts import Own
from tests.services.gateway.bad_inputs import (
    BODY_SECONDS,
    CASES,
    NEVER_SHOWN,
    WIRES,
    Case,
    Door,
    Sent,
    Wire,
    event,
    signed,
)
from tests.services.gateway.conftest import (
    Gateway,
    enrol_parties,
)
from tests.services.gateway.process import GatewayProcess

ANSWERED = "http_request_answered"
LOG_SECONDS = 60


@pytest.fixture(scope="module")
async def door(
    template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Door, None]:
    """One gateway for the whole table; what a request did is told by what was there before."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    async with clone(template) as database, database.open("gateway") as opened:
        await enrol_parties(opened)
        process = GatewayProcess(database, folder, log_level="debug")
        async with httpx.AsyncClient(base_url=process.url, timeout=30) as client:
            sender = Gateway(FastAPI(), client, opened)
            owns = [Own(sender, new_id(), slug, f"acct_{slug}") for slug in ("one", "two")]
            for own in owns:
                await own.give_secrets(own.secret)
                await own.tell()
            try:
                await process.start()
                yield Door(process, opened, client, *owns)
            finally:
                process.kill()


def test_every_kind_is_in_the_table() -> None:
    table: list[Case | Wire] = [*CASES, *WIRES]
    assert {case.number for case in table} == set(range(1, 23))
    assert len({str(case) for case in table}) == len(table)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_bad_webhook_has_its_answer_and_its_effect(door: Door, case: Case) -> None:
    before = await door.effects()
    answer = await send(door, case.make(door), str(case))
    assert answer.headers["request-id"] == str(case)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
    await check(door, case, answer.status_code, answer.text)
    assert await effects_since(door, before) == (case.kept, case.published)


async def test_22_the_same_id_with_another_body_changes_nothing(door: Door) -> None:
    first = signed(event(id="evt_same"))
    assert (await send(door, first, "the_first")).json() == {"status": "stored"}
    case = Case(
        22,
        "the_same_id",
        lambda _: signed(event(id="evt_same", type="invoice.voided")),
        200,
        "duplicate",
    )
    await test_a_bad_webhook_has_its_answer_and_its_effect(door, case)


async def test_bad_framing_has_its_answer_and_its_effect(door: Door) -> None:
    """All at once: the slow ones are cut off by the clock."""
    before = await door.effects()
    async with asyncio.timeout(BODY_SECONDS + 60):
        answers = await asyncio.gather(*(speak(door, wire) for wire in WIRES))
    for wire, (status, text) in zip(WIRES, answers, strict=True):
        await check(door, wire, status, text)
    kept, published = (sum(wire.kept for wire in WIRES), sum(wire.published for wire in WIRES))
    assert await effects_since(door, before) == (kept, published)


async def send(door: Door, sent: Sent, request_id: str) -> httpx.Response:
    """Post it as it is."""
    return await door.client.post(
        sent.url,
        content=sent.body,
        headers=[
            (b"x-request-id", request_id.encode()),
            *((b"stripe-signature", each) for each in sent.signatures),
            *((name.encode(), value.encode()) for name, value in sent.headers),
        ],
    )


async def speak(door: Door, wire: Wire) -> tuple[int, str]:
    """Send the pieces until there is an answer: its status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.process.port)

    async def send_all() -> None:
        with contextlib.suppress(ConnectionError):
            async for piece in wire.pieces(str(wire)):
                writer.write(piece)
                await writer.drain()

    sending = asyncio.create_task(send_all())
    try:
        top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(top.partition("content-length: ")[2].partition("\r\n")[0])
        return int(top.split(" ", 2)[1]), (await reader.readexactly(length)).decode()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def effects_since(door: Door, before: tuple[int, int]) -> tuple[int, int]:
    """Rows that came into the archive, and events for the others."""
    after = await door.effects()
    return after[0] - before[0], after[1] - before[1]


async def check(door: Door, case: Case | Wire, status: int, text: str) -> None:
    """The answer and the log are what the table says, and neither shows what nobody may see."""
    said = json.loads(text)
    assert (status, said.get("code") or said["status"]) == (case.status, case.said), text
    lines = await written_of(door, str(case))
    answered = [each for each in lines if each["event"] == ANSWERED]
    assert [each["status"] for each in answered] == [case.status]
    reasons = [each["event"] for each in lines if each not in answered]
    assert reasons == ([case.logged] if case.logged else [])
    written = json.dumps(lines)
    assert not [each for each in (*door.secrets(), *NEVER_SHOWN) if each in text]
    assert not [each for each in (*door.secrets(), "Traceback", "exception") if each in written]


async def written_of(door: Door, request_id: str) -> list[dict[str, Any]]:
    """The lines of a request, the last of which is written when the answer is on its way."""
    async with asyncio.timeout(LOG_SECONDS):
        while True:
            lines = [each for each in door.process.lines() if each.get("request_id") == request_id]
            if any(each["event"] == ANSWERED for each in lines):
                return lines
            await asyncio.sleep(0.02)
