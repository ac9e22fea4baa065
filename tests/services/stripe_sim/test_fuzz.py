"""Whatever is sent, the sandbox answers in Stripe's form and never fails itself."""

import random
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.stripe_sim import form, routing
from services.stripe_sim.app import build
from services.stripe_sim.errors import ApiError
from services.stripe_sim.params import ANY, CREATED, METADATA, Required
from services.stripe_sim.settings import Settings

KEY = "sk_test_platform_sandbox"
ODD = ["", "0", "-1", "1", "50", "999999999", "x", "true", "false", "eur", "now", "null", "ü", "[]"]
PREFIXES = {
    "customer": "cus_",
    "price": "price_",
    "product": "prod_",
    "payment_method": "pm_",
    "default_payment_method": "pm_",
    "subscription": "sub_",
    "invoice": "in_",
    "payment_intent": "pi_",
    "charge": "ch_",
    "coupon": "",
    "test_clock": "clock_",
    "session": "cs_",
    "invoiceitem": "ii_",
    "refund": "re_",
    "dispute": "du_",
    "payout": "po_",
    "tax_rate": "txr_",
    "setup_intent": "seti_",
    "payment_link": "plink_",
    "meter": "mtr_",
    "account": "acct_",
}


@given(st.text(max_size=200))
@settings(max_examples=500, deadline=None)
def test_the_form_parser_is_total(text: str) -> None:
    with suppress(ApiError):
        assert isinstance(form.parse(text), dict)


def test_nested_forms() -> None:
    parsed = form.parse("a[b][0][c]=1&a[b][1][c]=2&d[]=x&d[]=y&e=%26%3D+z&f[10]=b&f[9]=a")
    assert parsed == {
        "a": {"b": [{"c": "1"}, {"c": "2"}]},
        "d": ["x", "y"],
        "e": "&= z",
        "f": ["a", "b"],
    }


class Monkey:
    """Fills schemas with plausible nonsense and the ids of things that exist."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ids: list[str] = ["pm_card_visa", "pm_card_chargeDeclined"]

    def pairs(self, schema: dict[str, Any]) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for name, kind in schema.items():
            if isinstance(kind, Required) or self.random.random() < 0.3:
                found += self.value(name, kind)
        return found

    def value(self, path: str, kind: Any) -> list[tuple[str, str]]:
        if isinstance(kind, Required):
            kind = kind.inner
        if self.random.random() < 0.05:
            return [(path, self.random.choice(ODD))]
        if kind in (METADATA, ANY, CREATED):
            return [(f"{path}[{'gte' if kind is CREATED else 'key'}]", self.random.choice(ODD))]
        if isinstance(kind, dict):
            return [
                pair
                for name, inner in kind.items()
                if isinstance(inner, Required) or self.random.random() < 0.4
                for pair in self.value(f"{path}[{name}]", inner)
            ]
        if isinstance(kind, list):
            return self.value(f"{path}[0]", kind[0])
        if isinstance(kind, tuple):
            return [(path, self.random.choice(kind))]
        return [(path, self.scalar(path, kind))]

    def scalar(self, path: str, kind: Any) -> str:
        if kind is bool:
            return self.random.choice(["true", "false"])
        if kind is not str:
            return self.random.choice(["1", "50", "1000", "5000", "1800000000"])
        if "currency" in path:
            return "eur"
        if "url" in path:
            return "http://127.0.0.1:9/"
        if self.random.random() < 0.1:
            return self.random.choice(ODD)
        return self.id_for(path.rstrip("]").split("[")[-1])

    def id_for(self, word: str) -> str:
        """Return an id that fits a word of a path or parameter, or any."""
        prefix = PREFIXES.get(word.rstrip("s"), "")
        fitting = [each for each in self.ids if each.startswith(prefix)]
        return self.random.choice(fitting or self.ids)

    def path(self, segments: tuple[str, ...]) -> str:
        steps = []
        for place, step in enumerate(segments):
            steps.append(self.id_for(segments[place - 1]) if step == "{}" else step)
        return "/" + "/".join(steps)

    def learn(self, answer: Any) -> None:
        if isinstance(answer, dict) and isinstance(answer.get("id"), str):
            self.ids = [*self.ids, answer["id"]][-150:]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nonsense_never_breaks_it(seed: int) -> None:
    app = build(Settings(seed=str(seed)))
    monkey = Monkey(seed)
    endpoints = [each for each in routing.endpoints() if "reset" not in each.segments]
    creations = [each for each in endpoints if each.method == "POST" and "{}" not in each.segments]
    done: Counter[int] = Counter()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://sandbox"
    ) as http:
        for turn in range(1500):
            entry = monkey.random.choice(creations if turn % 2 else endpoints)
            path = monkey.path(entry.segments)
            pairs = monkey.pairs(entry.schema)
            where: dict[str, Any] = (
                {"params": pairs} if entry.method == "GET" else {"data": dict(pairs)}
            )
            if entry.method == "DELETE":
                where = {}
            answer = await http.request(
                entry.method, path, headers={"Authorization": f"Bearer {KEY}"}, **where
            )
            said = (entry.method, path, pairs, answer.text[:300])
            assert answer.status_code in (200, 400, 402, 403, 404), said
            assert answer.headers["request-id"], said
            done[answer.status_code] += 1
            monkey.learn(answer.json())
            _balance_agrees(app)
    assert done[200] > 200, done


def _balance_agrees(app: Any) -> None:
    sandbox = app.state.sandbox
    for transaction in sandbox.store.all(sandbox.platform, "balance_transaction"):
        assert transaction["net"] == transaction["amount"] - transaction["fee"]
