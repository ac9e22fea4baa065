"""A small program in the public API's place: the shapes of its answers, with figures to look for.

The console is a client; what stands here is what another program answered it, over real HTTP.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from tests.services.console.ledger_api import LedgerApi
from tests.services.console.money_api import MoneyApi
from tests.services.console.settings_api import SettingsApi

OPERATOR = "operator@example.com"
MEMBER = "owner@acme.example"
PASSWORD = "correct horse battery"
BEGIN = datetime(2026, 2, 1, tzinfo=UTC)
END = datetime(2026, 3, 1, tzinfo=UTC)
NEXT = datetime(2026, 4, 1, tzinfo=UTC)
INVOICE = "inv_0192f0c1-0000-7000-8000-000000000001"


def at(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def problem(status: int, detail: str, code: str = "refused") -> JSONResponse:
    body = {"title": "Refused", "status": status, "code": code, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")


def tenant(slug: str, number: int) -> dict[str, Any]:
    return {
        "id": f"0192f0c1-0000-7000-8000-00000000000{number}",
        "slug": slug,
        "name": slug.title(),
        "type": "organization",
        "status": "active",
        "plan_key": "pro" if slug == "acme" else "free",
        "currency": "EUR",
        "self_customer_id": "cus_0192f0c1-0000-7000-8000-000000000009",
        "stripe_customer_id": "cus_sim_1" if slug == "acme" else None,
        "stripe_subscription_id": "sub_sim_1" if slug == "acme" else None,
        "locale": "en",
        "tax_region": None,
        "settings": {"billing_email": "bills@acme.example"},
        "created_at": at(BEGIN),
    }


TENANTS = {slug: tenant(slug, number) for number, slug in enumerate(["acme", "globex"], 1)}
HOSTILE = "<script>alert(1)</script>"

LINES = [
    ("flat", "Pro, monthly fee", 4_900, None),
    ("usage", f"API calls {HOSTILE}", 2_750, "18000"),
    ("credit", "Credit used", -1_000, None),
]


def invoice_body() -> dict[str, Any]:
    return {
        "id": INVOICE,
        "status": "paid",
        "number": "ACME-0002",
        "reason": "subscription_cycle",
        "currency": "EUR",
        "total_minor": 6_650,
        "paid_minor": 6_650,
        "customer_id": "cus_1",
        "subscription_id": "sub_1",
        "period_from": at(BEGIN),
        "period_to": at(END),
        "stripe_invoice_id": "in_1",
        "hosted_invoice_url": "javascript:alert(1)",
        "completion_error": None,
        "created_at": at(END),
        "finalized_at": at(END),
        "paid_at": at(END),
    }


def line_body(number: int) -> dict[str, Any]:
    kind, description, amount, quantity = LINES[number]
    return {
        "id": f"line_{number}",
        "kind": kind,
        "description": description,
        "amount_minor": amount,
        "meter": "api_calls" if kind == "usage" else None,
        "quantity": quantity,
        "period_from": at(BEGIN),
        "period_to": at(END),
    }


def explanation(number: int) -> dict[str, Any]:
    body = {"line_id": f"line_{number}", "currency": "EUR", "tiers": [], "grants": []}
    kind, _, amount, _ = LINES[number]
    body |= {"kind": kind, "amount_minor": amount}
    if kind == "credit":
        return body | {"grants": [{"grant_id": "crd_1", "amount_minor": 1_000}]}
    return body | {
        "meter": "api_calls",
        "quantity": "18000",
        "included": "10000",
        "billable": "8000",
        "tiers": [
            {
                "up_to": "5000",
                "quantity": "5000",
                "unit_amount_minor": "0.4",
                "amount_minor": "2000",
            },
            {
                "up_to": None,
                "quantity": "3000",
                "unit_amount_minor": "0.25",
                "amount_minor": "750",
            },
        ],
        "rounding": {"rule": "half_even", "exact_minor": "2750", "rounded_minor": 2_750},
        "plan": "pro",
        "price_id": "price_1",
        "price_version": 3,
        "revision": 1,
        "event_count": 12_000,
        "closure": {"id": "x", "period_from": at(BEGIN), "period_to": at(END)},
        "previously_invoiced": None,
    }


def occurrence(number: int, state: str, outcome: str, reason: str | None) -> dict[str, Any]:
    return {
        "at": at(END + timedelta(days=number, hours=2)),
        "state": state,
        "outcome": outcome,
        "reason": reason,
        "used": "19500",
        "limit": "20000",
        "passes_at": at(NEXT) if reason == "next_period" else None,
        "judged_at": at(END),
    }


PLANNED = [
    {
        "id": f"pln_{number}",
        "meter_id": meter,
        "customer": None,
        "quantity": "2500",
        "every": "day",
        "note": f"nightly import {HOSTILE}",
        "canceled_at": at(END) if number == 3 else None,
        "next": occurrence(20, "planned", "deferred", "next_period"),
        "last": occurrence(19, "admitted", "admitted", None),
    }
    for number, meter in ((1, "mtr_1"), (2, "mtr_of_another"), (3, "mtr_1"))
]
METER = {
    "id": "mtr_1",
    "key": "api_calls",
    "event_type": "api.request",
    "aggregation": "sum",
    "owner": "platform",
}
FORECAST = {
    "meter": "api_calls",
    "period_to": at(NEXT),
    "trend": "17000.5",
    "planned": "5000",
    "expected": "22000.5",
    "low": "21000",
    "high": "23001",
    "limit": "20000",
    "kind": "hard",
    "limit_hit_on": "2026-03-27",
    "made_at": at(END + timedelta(days=19)),
}


class PublicApi:
    """The program, with what it saw and the ways it can be told to misbehave."""

    def __init__(self) -> None:
        self.address = ""
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.failing: dict[str, JSONResponse] = {}
        self.refusing: dict[str, JSONResponse] = {}
        self.empty = False
        self.time_zone = "UTC"
        self.month, self.has_period = END, True
        self.prepaid: dict[str, Any] | None = None
        self.meters = [METER]
        self.planned = PLANNED
        self.forecasts: dict[str, dict[str, Any]] = {"mtr_1": FORECAST}
        self.settings = SettingsApi()
        self.money = MoneyApi()
        self.ledger = LedgerApi()
        self.app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
        self._routes()

    def calls_of(self, path: str) -> list[dict[str, str]]:
        """The headers of the calls of a path."""
        return [headers for _, seen, headers in self.seen if seen == path]

    def _routes(self) -> None:
        app = self.app

        @app.middleware("http")
        async def watch(request: Request, call: Any) -> Any:
            self.seen.append((request.method, request.url.path, dict(request.headers)))
            failure = self.failing.get(request.url.path)
            if request.method != "GET":
                failure = self.refusing.get(request.url.path, failure)
            if failure is not None:
                return failure
            authorised = request.headers.get("authorization", "").startswith("Bearer as-")
            is_open = request.url.path.endswith(("/session", "/assertion", "/accept"))
            if not is_open and not authorised:
                return problem(401, "Send a key.")
            return await call(request)

        self._session_routes(app)
        self._tenant_routes(app)
        self._billing_routes(app)
        self._usage_routes(app)
        self._other_routes(app)
        self.settings.add_to(app)
        self.money.add_to(app)
        self.ledger.add_to(app)

    def _session_routes(self, app: FastAPI) -> None:
        @app.post("/api/v1/session")
        async def sign_in(request: Request) -> JSONResponse:
            body = await request.json()
            if body["password"] != PASSWORD or body["email"] not in (OPERATOR, MEMBER):
                return problem(401, "E-mail or password is wrong.", "sign_in_failed")
            answer = JSONResponse({}, 201)
            token = "op" if body["email"] == OPERATOR else "me"
            answer.set_cookie("sluice_session", token, httponly=True, samesite="lax")
            return answer

        @app.delete("/api/v1/session", status_code=204)
        async def sign_out() -> JSONResponse:
            answer = JSONResponse(None, 200)
            answer.set_cookie("sluice_session", "", max_age=0)
            return answer

        @app.post("/api/v1/session/assertion")
        async def assertion(request: Request) -> JSONResponse:
            token = request.cookies.get("sluice_session")
            if token not in ("op", "me"):
                return problem(401, "Sign in first.", "no_session")
            choice = await request.json()
            operator = token == "op"
            homes = [] if operator else [{"id": TENANTS["acme"]["id"], "slug": "acme", "name": "A"}]
            return JSONResponse(
                {
                    "assertion": f"as-{token}-{choice.get('mode')}-{choice.get('tenant')}",
                    "expires_at": at(BEGIN + timedelta(seconds=60)),
                    "user": {
                        "id": "usr_1",
                        "email": OPERATOR if operator else MEMBER,
                        "name": None,
                        "operator": operator,
                    },
                    "mode": choice.get("mode"),
                    "permissions": [],
                    "tenants": homes,
                }
            )

    def _tenant_routes(self, app: FastAPI) -> None:
        @app.get("/api/v1/tenants")
        async def tenants(request: Request) -> JSONResponse:
            operator = "as-op" in request.headers["authorization"]
            shown = list(TENANTS.values()) if operator else [TENANTS["acme"]]
            return JSONResponse({"items": [] if self.empty else shown, "next_cursor": None})

        @app.get("/api/v1/tenants/{slug}")
        async def one(slug: str) -> JSONResponse:
            found = [each for each in TENANTS.values() if slug in (each["slug"], each["id"])]
            if not found:
                return problem(404, "There is no such tenant.")
            return JSONResponse(found[0], headers={"ETag": '"abc123"'})

        @app.get("/api/v1/tenants/acme/clock")
        async def clock() -> JSONResponse:
            return JSONResponse({"business_now": at(END), "status": "ready", "failure": None})

        @app.get("/api/v1/subscriptions")
        async def subscriptions() -> JSONResponse:
            own = self.has_period
            item = {
                "id": "sub_1",
                "customer_id": "cus_1",
                "plan": "pro",
                "status": "active",
                "collection": "stripe",
                "period_from": at(END) if own else None,
                "period_to": at(NEXT) if own else None,
                "cancel_at_period_end": False,
                "stripe_subscription_id": "sub_sim_1",
            }
            return JSONResponse({"items": [] if self.empty else [item]})

    def _billing_routes(self, app: FastAPI) -> None:
        @app.get("/api/v1/billing/balance")
        async def balance() -> JSONResponse:
            return JSONResponse({"balances": [{"amount_minor": 250, "currency": "EUR"}]})

        @app.get("/api/v1/customers/{customer}/prepaid")
        async def prepaid(customer: str) -> JSONResponse:
            if self.prepaid is None or customer != TENANTS["acme"]["self_customer_id"]:
                return problem(404, "There is no such path.")
            return JSONResponse({"customer_id": customer, **self.prepaid})

        @app.get("/api/v1/invoices")
        async def invoices() -> JSONResponse:
            return JSONResponse({"items": [] if self.empty else [invoice_body()]})

        @app.get("/api/v1/invoices/{invoice}")
        async def invoice(invoice: str, request: Request) -> JSONResponse:
            if invoice != INVOICE or request.headers.get("x-tenant-id") != "acme":
                return problem(404, "There is no such object. Check the id.", "not_found")
            lines = [line_body(number) for number in range(len(LINES))]
            return JSONResponse({**invoice_body(), "lines": lines})

        @app.get(f"/api/v1/invoices/{INVOICE}/lines/{{line}}/explain")
        async def explain(line: str) -> JSONResponse:
            return JSONResponse(explanation(int(line.removeprefix("line_"))))

    def _usage_routes(self, app: FastAPI) -> None:
        @app.get("/api/v1/meters")
        async def meters() -> JSONResponse:
            return JSONResponse({"items": [] if self.empty else self.meters})

        @app.get("/api/v1/meters/{meter}")
        async def meter(meter: str) -> JSONResponse:
            found = next(each for each in self.meters if meter in (each["id"], each["key"]))
            return JSONResponse(found)

        @app.get("/api/v1/usage/planned")
        async def planned(request: Request) -> JSONResponse:
            items = [] if self.empty else self.planned
            if request.query_params.get("open") == "true":
                items = [each for each in items if each["next"] is not None]
            return JSONResponse({"items": items[: int(request.query_params["limit"])]})

        @app.get("/api/v1/usage/forecast")
        async def forecast(meter: str) -> JSONResponse:
            return JSONResponse(self.forecasts[meter])

        @app.get("/api/v1/meters/{meter}/query")
        async def query(meter: str, request: Request) -> JSONResponse:
            if all(each["id"] != meter for each in self.meters):
                return problem(404, "There is no such meter.")
            asked = request.query_params.get("from")
            begin = self.month if asked is None else datetime.fromisoformat(asked)
            if request.query_params.get("window") is None:
                value = "18000.5" if begin == BEGIN else "1234"
                row = {"from": at(begin), "to": at(NEXT), "group": {}, "value": value}
                answer = {"rows": [row], "time_zone": self.time_zone, "as_of": at(END)}
                return JSONResponse(answer)
            rows = [
                {
                    "from": at(begin + timedelta(days=day)),
                    "to": at(begin + timedelta(days=day + 1)),
                    "group": {},
                    "value": str(300 + day * 37 % 500),
                }
                for day in range(19)
            ]
            answer = {"rows": rows, "time_zone": self.time_zone, "as_of": at(END)}
            return JSONResponse(answer)

    def _other_routes(self, app: FastAPI) -> None:
        @app.get("/api/v1/ops/topics")
        async def topics(request: Request) -> JSONResponse:
            if "as-op" not in request.headers["authorization"]:
                return problem(403, "Operators only.")
            parts = [
                {"partition": number, "committed_offset": 40 + number, "end_offset": 42 + number}
                for number in range(3)
            ]
            group = {
                "group": "billing",
                "lag_records": 6,
                "partitions_behind": 3,
                "partitions": parts,
            }
            item = {
                "topic": "metering.events",
                "partitions": 3,
                "records": 129,
                "end_offsets": [42, 43, 44],
                "lag_records": 6,
                "groups": [group, {**group, "group": "reporting", "lag_records": 0}],
            }
            bare = {**item, "topic": "audit.events", "lag_records": 0, "groups": []}
            items = [item, bare]
            return JSONResponse({"as_of": at(END), "lag_records": 6, "items": items})
