"""/_sim, second part: what happens to an account from outside, brought about by hand."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.stripe_sim import (
    accounts,
    balance,
    connect,
    destinations,
    disputes,
    payouts,
    refunds,
    slow_payments,
)
from services.stripe_sim.connect import OAuthError
from services.stripe_sim.errors import ApiError
from services.stripe_sim.render import render
from services.stripe_sim.routes.control import ControlError, body_of, text
from services.stripe_sim.routes.pages import answer_challenge
from services.stripe_sim.sandbox import Sandbox, Scope
from services.stripe_sim.store import Obj

ROLL_SECONDS = 24 * 3600


class Simulate:
    """Banks, payers and account owners, as far as a test needs them."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/_sim/accounts", self.create_account, methods=["POST"]),
            Route("/_sim/accounts", self.list_accounts, methods=["GET"]),
            Route("/_sim/accounts/{account}", self.change_account, methods=["POST"]),
            Route("/_sim/accounts/{account}/keys", self.add_key, methods=["POST"]),
            Route("/_sim/accounts/{account}/connect", self.connect, methods=["POST"]),
            Route("/_sim/accounts/{account}/disconnect", self.disconnect, methods=["POST"]),
            Route("/_sim/accounts/{account}/release", self.release, methods=["POST"]),
            Route("/_sim/accounts/{account}/payout", self.pay_out, methods=["POST"]),
            Route("/_sim/keys/revoke", self.revoke_key, methods=["POST"]),
            Route("/_sim/webhook_endpoints/{endpoint}/roll", self.roll, methods=["POST"]),
            Route("/_sim/charges/{charge}/dispute", self.dispute, methods=["POST"]),
            Route("/_sim/disputes/{dispute}/close", self.close_dispute, methods=["POST"]),
            Route("/_sim/payouts/{payout}/settle", self.settle_payout, methods=["POST"]),
            Route("/_sim/refunds/{refund}/settle", self.settle_refund, methods=["POST"]),
            Route("/_sim/payment_intents/{intent}/settle", self.settle_payment, methods=["POST"]),
            Route(
                "/_sim/payment_intents/{intent}/authenticate", self.authenticate, methods=["POST"]
            ),
        ]

    def _do(self, work: Callable[[], Any], status: int = 200) -> Response:
        """Do the work and commit it, or nothing of it."""
        try:
            answer = work()
        except (ApiError, OAuthError, ValueError) as error:
            self.sandbox.store.rollback()
            accounts.index_keys(self.sandbox)
            message = error.message if isinstance(error, ApiError) else str(error)
            raise ControlError(400, message) from None
        self.sandbox.store.commit()
        return JSONResponse(answer, status)

    def _account(self, request: Request) -> Scope:
        account_id = request.path_params["account"]
        if self.sandbox.store.get(account_id, "account", account_id) is None:
            raise ControlError(404, f"no such account: {account_id}")
        return self.sandbox.scope(account_id)

    def _find(self, kind: str, object_id: str) -> tuple[Scope, Obj]:
        found = self.sandbox.find_anywhere(kind, object_id)
        if found is None:
            raise ControlError(404, f"no such {kind}: {object_id}")
        return found

    async def create_account(self, request: Request) -> Response:
        """Create an account with keys of its own, as a company of its own has them at Stripe."""
        body = await body_of(request)

        def work() -> dict[str, str]:
            names = ("name", "email", "country", "default_currency")
            fields = {name: text(body, name) for name in names}
            account_id = self.sandbox.new_id("acct_1", 15)
            account = accounts.build(self.sandbox, account_id, fields)
            wanted = text(body, "secret_key")
            return {
                "id": account_id,
                "secret_key": accounts.add_key(self.sandbox, account, accounts.SECRET, wanted),
                "publishable_key": accounts.add_key(self.sandbox, account, accounts.PUBLISHABLE),
            }

        return self._do(work, 201)

    async def list_accounts(self, _request: Request) -> Response:
        """List all accounts with their keys: they are worth nothing outside the sandbox."""
        items = [
            {
                "id": account_id,
                "name": account["settings"]["dashboard"]["display_name"],
                "platforms": list(account["_sim"]["platforms"]),
                "keys": account["_sim"]["keys"],
            }
            for account_id, account in self.sandbox.store.everywhere("account")
        ]
        return JSONResponse({"items": items})

    async def change_account(self, request: Request) -> Response:
        """Set `ready` (may charge and be paid out) or `after_retries` of an account."""
        scope, body = self._account(request), await body_of(request)

        def work() -> Obj:
            account = scope.own_account
            if "after_retries" in body:
                if body["after_retries"] not in ("cancel", "past_due", "unpaid"):
                    raise ValueError("after_retries must be cancel, past_due or unpaid")
                account["_sim"]["after_retries"] = body["after_retries"]
                scope.save(account)
            if isinstance(body.get("ready"), bool):
                connect.set_ready(scope, ready=body["ready"])
            return render(scope, account)

        return self._do(work)

    async def add_key(self, request: Request) -> Response:
        """Give an account one more key of a `kind`; `permissions` limit a restricted one."""
        scope, body = self._account(request), await body_of(request)
        kind = body.get("kind", accounts.SECRET)
        if kind not in (accounts.SECRET, accounts.PUBLISHABLE, accounts.RESTRICTED):
            raise ControlError(400, "kind must be secret, publishable or restricted")
        permissions = body.get("permissions")
        if permissions is not None and not (
            isinstance(permissions, list) and all(isinstance(each, str) for each in permissions)
        ):
            raise ControlError(400, 'permissions must be a list such as ["customers:read"]')

        def work() -> dict[str, str]:
            account, wanted = scope.own_account, text(body, "key")
            key = accounts.add_key(self.sandbox, account, kind, wanted, permissions)
            return {"key": key}

        return self._do(work, 201)

    async def revoke_key(self, request: Request) -> Response:
        """Revoke the key `{"key": …}`: calls with it are answered 401 from now on."""
        key = text(await body_of(request), "key")
        return self._do(lambda: {"revoked": accounts.revoke_key(self.sandbox, key or "")})

    async def connect(self, request: Request) -> Response:
        """Connect an account to the platform without a browser."""
        scope = self._account(request)

        def work() -> dict[str, bool]:
            connect.authorize(self.sandbox, scope.account)
            return {"connected": True}

        return self._do(work)

    async def disconnect(self, request: Request) -> Response:
        """Disconnect an account from the platform, as its owner would in the dashboard."""
        scope = self._account(request)

        def work() -> dict[str, bool]:
            connect.deauthorize(self.sandbox, scope.account)
            return {"connected": False}

        return self._do(work)

    async def release(self, request: Request) -> Response:
        """Make the pending balance of an account available now."""
        scope = self._account(request)
        return self._do(lambda: {"released": balance.release_all(scope)})

    async def pay_out(self, request: Request) -> Response:
        """Create the automatic payout of all that is available in a `currency`."""
        scope, body = self._account(request), await body_of(request)
        currency = text(body, "currency") or scope.own_account["default_currency"]
        return self._do(lambda: render(scope, payouts.pay_out_everything(scope, currency)), 201)

    async def settle_payout(self, request: Request) -> Response:
        """Let a payout arrive, fail with the code in `failure`, or be on its way: `in_transit`."""
        scope, payout = self._find("payout", request.path_params["payout"])
        body = await body_of(request)
        failure = text(body, "failure")
        if body.get("in_transit") is True:
            return self._do(lambda: render(scope, payouts.send_off(scope, payout)))
        return self._do(lambda: render(scope, payouts.settle(scope, payout, failure)))

    async def settle_refund(self, request: Request) -> Response:
        """Let a pending refund succeed, or any fail with the reason in `failure`."""
        scope, refund = self._find("refund", request.path_params["refund"])
        failure = text(await body_of(request), "failure")
        return self._do(lambda: render(scope, refunds.settle(scope, refund, failure)))

    async def roll(self, request: Request) -> Response:
        """Roll an endpoint's secret: both sign for `expires_in_seconds` (default a day)."""
        endpoint_id = request.path_params["endpoint"]
        kind = destinations.KIND if endpoint_id.startswith("ed_") else "webhook_endpoint"
        scope, endpoint = self._find(kind, endpoint_id)
        body = await body_of(request)
        seconds = body.get("expires_in_seconds", ROLL_SECONDS)
        if type(seconds) is not int or not 0 <= seconds <= ROLL_SECONDS:
            raise ControlError(400, f"expires_in_seconds must be from 0 to {ROLL_SECONDS}")
        secret = text(body, "secret") or self.sandbox.new_id("whsec_", 32)

        def work() -> dict[str, str]:
            accounts.roll_secret(scope, endpoint, secret, seconds)
            return {"id": endpoint["id"], "secret": secret}

        return self._do(work)

    async def dispute(self, request: Request) -> Response:
        """Open a dispute about a charge: `reason`, `amount`."""
        scope, charge = self._find("charge", request.path_params["charge"])
        body = await body_of(request)
        reason = text(body, "reason") or "fraudulent"
        if reason not in disputes.REASONS:
            raise ControlError(400, f"reason must be one of {', '.join(disputes.REASONS)}")
        amount = body.get("amount")
        if amount is not None and type(amount) is not int:
            raise ControlError(400, "amount must be a whole number of minor units")
        return self._do(lambda: render(scope, disputes.build(scope, charge, reason, amount)), 201)

    async def close_dispute(self, request: Request) -> Response:
        """Decide a dispute: `{"won": true}`."""
        scope, dispute = self._find("dispute", request.path_params["dispute"])
        won = (await body_of(request)).get("won") is True
        return self._do(lambda: render(scope, disputes.close(scope, dispute, won=won)))

    async def settle_payment(self, request: Request) -> Response:
        """Let a processing payment succeed, or fail: `{"succeeds": false}`."""
        scope, intent = self._find("payment_intent", request.path_params["intent"])
        succeeds = (await body_of(request)).get("succeeds") is not False

        def work() -> Obj:
            slow_payments.settle(scope, intent, succeeds=succeeds)
            return render(scope, intent)

        return self._do(work)

    async def authenticate(self, request: Request) -> Response:
        """Answer the bank's challenge of a payment: `{"passes": false}` fails it."""
        scope, intent = self._find("payment_intent", request.path_params["intent"])
        passes = (await body_of(request)).get("passes") is not False

        def work() -> Obj:
            if intent["status"] != "requires_action":
                raise ValueError(f"the payment is {intent['status']}, nobody was asked")
            answer_challenge(scope, intent, passed=passes)
            return render(scope, intent)

        return self._do(work)
