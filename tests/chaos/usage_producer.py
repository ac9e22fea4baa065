"""A product's program that publishes usage over HTTP and may be killed at any moment.

    python -m tests.chaos.usage_producer <folder>

It reads its plan in the folder, goes on behind the last batch that it knows to be accepted, and sends one
event in twenty a second time, as programs do that are not sure. What a batch holds follows from its number,
so a test can work out what must be counted.
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from libs.clock import format_time, parse_time

PLAN, PROGRESS = "plan.json", "progress"
BATCH = 250
SENT_AGAIN = BATCH // 20
CUSTOMERS, USERS = 7, 11
SPREAD = timedelta(hours=2)
RETRY_SECONDS = 0.1
ANSWERED_SECONDS = 15.0


@dataclass(frozen=True)
class Plan:
    """What is to be published.

    Attributes:
        keys: an API key for each tenant, which take turns by batch.
        began_at: the first event's time; the others follow over two hours.
    """

    urls: list[str]
    keys: list[str]
    seed: int
    batches: int
    began_at: str

    def write(self, folder: Path) -> None:
        """Keep it where the program looks for it."""
        (folder / PLAN).write_text(json.dumps(asdict(self)))

    def numbers(self, batch: int) -> range:
        """The events that come for the first time in a batch."""
        return range(batch * BATCH, (batch + 1) * BATCH)

    def sent_again(self, batch: int) -> list[int]:
        """The events of this batch and earlier ones of its tenant that are sent once more."""
        rng = random.Random(f"{self.seed}/{batch}")
        tenants = len(self.keys)
        return [
            rng.randrange(batch % tenants, batch + 1, tenants) * BATCH + rng.randrange(BATCH)
            for _ in range(SENT_AGAIN)
        ]

    def event(self, number: int) -> dict[str, Any]:
        """An event; half of them have ids that are ordered in time."""
        at = parse_time(self.began_at) + SPREAD * number / (self.batches * BATCH)
        return {
            "id": _ordered_id(at, number) if number % 2 else f"use {number}",
            "source": "chaos",
            "type": "api.call",
            "time": format_time(at),
            "subject": f"customer-{number % CUSTOMERS}",
            "userid": f"user-{number % USERS}",
            "data": {"calls": str(amount(number)), "region": ("eu", "us")[number % 2]},
        }


def amount(number: int) -> Decimal:
    """What an event says was used."""
    return Decimal(number * 7_919 % 10_007) / 100


def _ordered_id(at: datetime, number: int) -> str:
    milliseconds = int(at.timestamp() * 1000)
    return str(UUID(int=(milliseconds << 80) | (0x7 << 76) | (0x2 << 62) | number))


def done(folder: Path) -> int:
    """How many batches are known to be accepted."""
    path = folder / PROGRESS
    return int(path.read_text()) if path.exists() else 0


def publish(folder: Path) -> None:
    """Send what is left of the plan."""
    plan = Plan(**json.loads((folder / PLAN).read_text()))
    with httpx.Client(timeout=ANSWERED_SECONDS) as client:
        for batch in range(done(folder), plan.batches):
            numbers = [*plan.numbers(batch), *plan.sent_again(batch)]
            body = json.dumps([plan.event(number) for number in numbers])
            headers = {"X-API-Key": plan.keys[batch % len(plan.keys)]}
            for results in _answers(client, plan, body, headers):
                statuses = {each["status"] for each in results}
                assert statuses <= {"accepted", "duplicate"}, results
            there = folder / f"{PROGRESS}.new"
            there.write_text(str(batch + 1))
            there.replace(folder / PROGRESS)


def _answers(
    client: httpx.Client, plan: Plan, body: str, headers: dict[str, str]
) -> Iterator[list[dict[str, Any]]]:
    """Ask one service after the other until the batch is accepted."""
    headers |= {"content-type": "application/json"}
    place = 0
    while True:
        url = plan.urls[place % len(plan.urls)]
        try:
            answer = client.post(f"{url}/api/v1/events", content=body, headers=headers)
            if answer.status_code == 202:
                yield answer.json()["results"]
                return
            assert answer.status_code >= 500, answer.text
        except httpx.TransportError:
            pass
        place += 1
        time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
