"""The part of the public API that the pages of the ledger use, in the small program's place."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tests.services.console.settings_bodies import BEGIN, HOSTILE, LATER

ACME = "0192f0c1-0000-7000-8000-000000000001"
BREAK = "brk_0192f0c1-0000-7000-8000-0000000000a1"
RUN = "rcn_0192f0c1-0000-7000-8000-0000000000a2"
ACCOUNT = "liability:customer_credits"


def posting(account: str, side: str, amount: int = 6_650) -> dict[str, Any]:
    return {"account": account, "side": side, "amount_minor": amount, "currency": "EUR"}


ENTRY = {
    "id": "ent_1",
    "tenant_id": ACME,
    "source_key": "invoice:1:finalized",
    "effective_at": LATER,
    "booked_at": LATER,
    "rule": "invoice_finalized",
    "rule_version": 2,
    "reverses": "ent_0",
    "belongs_to": "2026-01",
    "chain_seq": 17,
    "postings": [posting("asset:receivable", "debit"), posting("revenue:usage", "credit")],
}

LINE = {
    "account_seq": 7,
    "entry_id": "ent_1",
    "source_key": f"api:{HOSTILE}",
    "rule": "posted",
    "reverses": None,
    "effective_at": BEGIN,
    "booked_at": LATER,
    "side": "credit",
    "amount_minor": 1_250,
    "balance_after_minor": 5_250,
}

HOLD = {
    "id": "hld_1",
    "tenant_id": ACME,
    "key": "order-77",
    "account": ACCOUNT,
    "currency": "EUR",
    "amount_minor": 1_000,
    "captured_minor": 250,
    "remaining_minor": 750,
    "state": "open",
    "placed_at": BEGIN,
    "expires_at": LATER,
    "ended_at": None,
}

PERIODS = [
    {
        "tenant_id": ACME,
        "book": "tenant",
        "period": period,
        "state": state,
        "starts_at": BEGIN,
        "ends_at": LATER,
        "steps": [
            {
                "step": 1,
                "kind": "close",
                "taken_at": LATER,
                "taken_by": "usr_1",
                "reason": None,
                "chain_seq": 42,
            },
            {
                "step": 2,
                "kind": "reopen",
                "taken_at": LATER,
                "taken_by": "usr_2",
                "reason": f"a late invoice {HOSTILE}",
                "chain_seq": None,
            },
        ][: 2 if state == "open" else 1],
    }
    for period, state in (("2026-02", "open"), ("2026-01", "closed"), ("2025-12", "closed"))
]


def found(**changes: Any) -> dict[str, Any]:
    """A payment that Stripe lists and the books lack; a repair is proposed."""
    return {
        "id": BREAK,
        "tenant_id": ACME,
        "mode": "test",
        "account": "acct_sim_9",
        "kind": "missing_in_ledger",
        "reference": "ch_sim_1",
        "state": "proposed",
        "currency": "EUR",
        "stripe_minor": 9_900,
        "ledger_minor": 0,
        "difference_minor": 9_900,
        "occurred_at": BEGIN,
        "found_at": BEGIN,
        "last_found_at": LATER,
        "age_seconds": 3 * 86_400 + 5,
        "times_found": 3,
        "reconciliation": RUN,
        "owner": None,
        "reason": None,
        "accepted_at": None,
        "resolved_at": None,
        "transactions": ["txn_sim_1"],
        "entries": [],
        "proposal": {
            "action": "tell_again",
            "transactions": ["txn_sim_1"],
            "entries": [],
            "tenant_id": ACME,
            "book": None,
            "postings": [],
        },
    } | changes


HISTORY = [
    {"at": BEGIN, "change": "found", "actor": None, "detail": "Stripe 9900, books 0 EUR"},
    {"at": LATER, "change": "assigned", "actor": "usr_1", "detail": HOSTILE},
]

RECONCILIATION = {
    "id": RUN,
    "tenant_id": ACME,
    "mode": "test",
    "account": "acct_sim_9",
    "from": BEGIN,
    "to": LATER,
    "state": "completed",
    "error": None,
    "requested_by": None,
    "statement": "stm_1",
    "started_at": LATER,
    "ended_at": LATER,
    "lines": 1_204,
    "entries": 2_400,
    "matched": 1_199,
    "waiting": 4,
    "breaks_found": 1,
    "breaks_resolved": 2,
    "balances": [
        {
            "currency": "EUR",
            "stripe_minor": 10_000,
            "ledger_minor": 100,
            "unexplained_minor": 0,
            "held_since": "2026-02-03T04:05:06Z",
            "suspense_since": None,
        }
    ],
}


class LedgerApi:
    """What it was told, and what it answers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Any]] = []
        self.asked: list[str] = []
        self.unbalanced = False
        self.empty = False
        self.found = found()

    def _listed(self, *items: dict[str, Any]) -> JSONResponse:
        shown = [] if self.empty else list(items)
        return JSONResponse({"items": shown, "next_cursor": None if self.empty else "more"})

    async def _note(self, request: Request) -> None:
        self.told.append((request.method, request.url.path, await request.json()))

    def add_to(self, app: FastAPI) -> None:
        """Answer on `app`."""
        self._books(app)
        self._files(app)
        self._periods(app)
        self._breaks(app)

    def _books(self, app: FastAPI) -> None:
        @app.get("/api/v1/ledger/trial-balance")
        async def trial_balance(request: Request) -> JSONResponse:
            self.asked.append(str(request.url.query))
            if self.empty:
                return JSONResponse({"rows": [], "totals": []})
            names = ["asset:receivable", "asset:stripe_clearing:acct_1", "revenue:usage"]
            sides = [(6_650, 6_650), (11_550, 300), (0, 11_250)]
            rows = [
                {"account": name, "currency": "EUR", "debit_minor": debit, "credit_minor": credit}
                for name, (debit, credit) in zip(names, sides, strict=True)
            ]
            debit = 18_200 + self.unbalanced
            totals = [{"currency": "EUR", "debit_minor": debit, "credit_minor": 18_200}]
            return JSONResponse({"rows": rows, "totals": totals})

        @app.get("/api/v1/ledger/accounts")
        async def accounts() -> JSONResponse:
            row = {"account": "revenue:usage", "currency": "EUR", "balance_minor": 11_250}
            held = {"held_minor": 250, "available_minor": 11_000}
            return JSONResponse({"items": [] if self.empty else [row | held], "next_cursor": None})

        @app.get("/api/v1/ledger/entries")
        async def entries(request: Request) -> JSONResponse:
            self.asked.append(str(request.url.query))
            return self._listed(ENTRY)

        @app.get(f"/api/v1/ledger/accounts/{ACCOUNT}/balance")
        async def balance() -> JSONResponse:
            amounts = [
                {
                    "currency": code,
                    "balance_minor": 5_250,
                    "held_minor": 750,
                    "available_minor": 4_500,
                }
                for code in ("EUR", "USD")
            ]
            body = {"account": ACCOUNT, "type": "liability", "normal_side": "credit"}
            return JSONResponse(body | {"balances": [] if self.empty else amounts})

        @app.get(f"/api/v1/ledger/accounts/{ACCOUNT}/statement")
        async def statement(request: Request) -> JSONResponse:
            self.asked.append(str(request.url.query))
            return self._listed(LINE)

        @app.get("/api/v1/ledger/holds")
        async def holds() -> JSONResponse:
            return self._listed(HOLD)

    def _files(self, app: FastAPI) -> None:
        @app.get("/api/v1/ledger/export")
        async def export(request: Request) -> Response:
            self.asked.append(str(request.url.query))
            headers = {"Content-Disposition": 'attachment; filename="ledger.journal"'}
            return Response("; a journal\n", media_type="text/plain", headers=headers)

        @app.get("/api/v1/ledger/breaks/export")
        async def breaks(request: Request) -> Response:
            self.asked.append(str(request.url.query))
            headers = {"Content-Disposition": 'attachment; filename="breaks.csv"'}
            return Response("id\r\n", media_type="text/csv", headers=headers)

    def _periods(self, app: FastAPI) -> None:
        @app.get("/api/v1/ledger/periods")
        async def periods() -> JSONResponse:
            return self._listed(*PERIODS)

        @app.post("/api/v1/ledger/periods/{period}/close")
        async def close(request: Request, period: str) -> JSONResponse:  # noqa: ARG001
            await self._note(request)
            return JSONResponse(PERIODS[1])

        @app.post("/api/v1/ledger/periods/{period}/reopen")
        async def reopen(request: Request, period: str) -> JSONResponse:  # noqa: ARG001
            await self._note(request)
            return JSONResponse(PERIODS[0])

    def _breaks(self, app: FastAPI) -> None:
        @app.get("/api/v1/ledger/reconciliations")
        async def runs() -> JSONResponse:
            return self._listed(RECONCILIATION)

        @app.post("/api/v1/ledger/reconciliations")
        async def start(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse(RECONCILIATION, 202)

        @app.get(f"/api/v1/ledger/reconciliations/{RUN}")
        async def run() -> JSONResponse:
            return JSONResponse(RECONCILIATION)

        @app.get("/api/v1/ledger/breaks")
        async def breaks(request: Request) -> JSONResponse:
            self.asked.append(str(request.url.query))
            return self._listed(self.found)

        @app.get(f"/api/v1/ledger/breaks/{BREAK}")
        async def one() -> JSONResponse:
            return JSONResponse(self.found | {"history": HISTORY})

        @app.post(f"/api/v1/ledger/breaks/{BREAK}/{{what}}")
        async def decide(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse(self.found | {"history": HISTORY})
