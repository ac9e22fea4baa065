"""Secrets and keys roll and an account leaves while webhooks arrive at gateway processes.

No valid event is refused or lost, and no foreign one is kept: events signed with another's secret, with
one that has ended, or for an account that is nobody's come all the while too.
"""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from libs.clock import utc_now
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.gateway.signature import sign
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import (
    CONNECT,
    CURRENT,
    PREVIOUS,
    URL,
    Gateway,
    enrol_parties,
    snapshot_event,
)
from tests.services.gateway.process import GatewayProcess

FRESH = b"whsec_fresh"
ROLLS = 3
STEP_SECONDS = 0.6
KNOWN_WITHIN_SECONDS = 60
"""A bound for a busy machine; the promise of two seconds is measured by `make bench`."""
SENDERS = 2


def signatures(secrets: tuple[bytes, ...], body: bytes) -> bytes:
    """One header with a signature by each secret, as while a roll lasts."""
    now = int(utc_now().timestamp())
    first, *others = [sign(secret, body, now) for secret in secrets]
    return b",".join([first, *(each.partition(b",")[2] for each in others)])


@dataclass
class Source:
    """Somebody who sends events without a pause.

    Attributes:
        doors: where they go, in turn.
        secrets: what each is signed with now.
        begun: ids of the events whose sending has begun.
        sent: the answer to each event id.
    """

    url: str
    doors: list[str]
    secrets: tuple[bytes, ...]
    account: str | None = None
    begun: set[str] = field(default_factory=set)
    sent: dict[str, tuple[int, str]] = field(default_factory=dict)
    _turn: "itertools.count[int]" = field(default_factory=itertools.count)

    async def send(self, http: httpx.AsyncClient) -> None:
        """One event."""
        event = snapshot_event() | ({"account": self.account} if self.account else {})
        body = json.dumps(event).encode()
        door = self.doors[next(self._turn) % len(self.doors)]
        header = signatures(self.secrets, body)
        self.begun.add(event["id"])
        answer = await http.post(
            f"{door}{self.url}", content=body, headers=[(b"stripe-signature", header)]
        )
        said = answer.json()["status"] if answer.is_success else "refused"
        self.sent[event["id"]] = (answer.status_code, said)

    def said(self) -> Counter[tuple[int, str]]:
        """How often what was answered."""
        return Counter(self.sent.values())

    async def hears(self, answer: tuple[int, str]) -> None:
        """Until it was answered so."""
        async with asyncio.timeout(KNOWN_WITHIN_SECONDS):
            while answer not in self.sent.values():
                await asyncio.sleep(0.02)


async def known(source: Source, secret: bytes) -> set[str]:
    """Until every process takes what is signed with a secret that they were just told.

    Returns:
        The ids of what they took.
    """
    taken = set()
    async with httpx.AsyncClient(timeout=30) as http, asyncio.timeout(KNOWN_WITHIN_SECONDS):
        for door in source.doors:
            probe = Source(source.url, [door], (secret,))
            while (200, "stored") not in probe.said():
                await probe.send(http)
                await asyncio.sleep(0.02)
            taken |= {each for each, answer in probe.sent.items() if answer == (200, "stored")}
    return taken


@asynccontextmanager
async def load(*sources: Source) -> AsyncGenerator[None, None]:
    """All of them send for as long as the block lasts; a request under way is waited for."""
    stop = asyncio.Event()

    async def one(http: httpx.AsyncClient, source: Source) -> None:
        while not stop.is_set():
            await source.send(http)

    async with httpx.AsyncClient(timeout=30) as http, asyncio.TaskGroup() as group:
        for source in sources:
            for _ in range(SENDERS):
                group.create_task(one(http, source))
        try:
            yield
        finally:
            stop.set()


async def kept(database: TestDatabase) -> dict[str, tuple[Any, str | None]]:
    """Tenant and reason of quarantine by event id."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select stripe_event_id, tenant_id, quarantine_reason from gateway.webhook_event"
        )
    return {row["stripe_event_id"]: (row["tenant_id"], row["quarantine_reason"]) for row in rows}


async def published(database: TestDatabase) -> Counter[tuple[Any, str]]:
    """How often each event was told, and to whom."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select tenant_id, payload::jsonb -> 'data' ->> 'stripe_event_id' as id "
            "from gateway.outbox where topic = 'stripe.events'"
        )
    return Counter((row["tenant_id"], row["id"]) for row in rows)


async def test_rolls_and_leaving_under_load(database: TestDatabase, tmp_path: Path) -> None:
    old = GatewayProcess(database, tmp_path / "old")
    new = GatewayProcess(database, tmp_path / "new", secrets=(FRESH, CURRENT, CONNECT))
    for process in (old, new):
        process.folder.mkdir()
    async with database.open("gateway") as opened:
        await enrol_parties(opened)
        party = Gateway(FastAPI(), httpx.AsyncClient(), opened)
        raw, other = (Own(party, new_id(), f"t-{n}", f"acct_{n}") for n in ("raw", "other"))
        leaving = Own(party, new_id(), "t-leaving", "acct_leaving", kind="CONNECT_STANDARD")
        for own in (raw, other):
            await own.give_secrets(own.secret)
        for own in (raw, other, leaving):
            await own.tell()
        try:
            for process in (old, new):
                process.launch()
            for process in (old, new):
                await process.answers()
            await _story(database, old, new, raw, other, leaving)
        finally:
            for process in (old, new):
                process.kill()
            await party.client.aclose()


async def _story(
    database: TestDatabase,
    old: GatewayProcess,
    new: GatewayProcess,
    raw: Own,
    other: Own,
    leaving: Own,
) -> None:
    both = [old.url, new.url]
    platform = Source(URL, both, (CURRENT,))
    of_raw = Source(f"{URL}/{raw.token}", both, (raw.secret.encode(),))
    of_leaving = Source(URL, both, (CONNECT,), leaving.account)
    forged = [
        Source(f"{URL}/{raw.token}", both, (other.secret.encode(),)),
        Source(f"{URL}/{raw.token}", both, (CURRENT, FRESH, CONNECT)),
        Source(f"{URL}/{other.token}", both, (raw.secret.encode(),)),
        Source(URL, both, (raw.secret.encode(), b"whsec_no")),
        Source(URL, [new.url], (PREVIOUS,)),
    ]
    probes: set[str] = set()
    async with load(platform, of_raw, of_leaving, *forged):
        for _ in range(ROLLS):
            before, fresh = of_raw.secrets[-1].decode(), f"whsec_{new_id().hex}"
            raw.version += 1
            await raw.give_secrets(fresh, before)
            # The key rolls too: a new version of the connection, of no concern to its webhooks.
            await raw.tell(credential_version=raw.version)
            probes |= await known(of_raw, fresh.encode())
            of_raw.secrets = (fresh.encode(), before.encode())
            await asyncio.sleep(STEP_SECONDS)
            of_raw.secrets = (fresh.encode(),)
        # The platform's own secret: Stripe signs with both, then with the new one alone, by when
        # only processes that know it are asked.
        platform.secrets = (CURRENT, FRESH)
        await asyncio.sleep(STEP_SECONDS)
        for source in (platform, of_raw, of_leaving, *forged):
            source.doors = [new.url]
        await asyncio.sleep(STEP_SECONDS)
        platform.secrets = (FRESH,)
        await asyncio.sleep(STEP_SECONDS)
        stayed = set(of_leaving.sent)
        await leaving.tell(status="REVOKED")
        await of_leaving.hears((200, "quarantined"))
        left = set(of_leaving.begun)
        await asyncio.sleep(STEP_SECONDS)
    for source in forged:
        assert set(source.said()) == {(400, "refused")}
    assert set(platform.said()) == set(of_raw.said()) == {(200, "stored")}
    assert set(of_leaving.said()) == {(200, "stored"), (200, "quarantined")}
    assert {of_leaving.sent[each] for each in stayed} == {(200, "stored")}
    assert {of_leaving.sent[each] for each in of_leaving.sent.keys() - left} == {
        (200, "quarantined")
    }
    archive, told = await kept(database), await published(database)
    valid = [*platform.sent, *of_raw.sent, *of_leaving.sent, *probes]
    assert set(archive) == set(valid), "all that is valid, and nothing else"
    assert {archive[each] for each in of_raw.sent} == {(raw.tenant_id, None)}
    for each, answer in of_leaving.sent.items():
        assert archive[each][1] == (None if answer[1] == "stored" else "unknown_account")
    wanted = {each for each in valid if archive[each][1] is None}
    assert {each for _, each in told} == wanted
    assert set(told.values()) == {1}
    assert {tenant_id for tenant_id, each in told if each in of_raw.sent} == {raw.tenant_id}
