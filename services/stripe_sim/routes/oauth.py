"""/oauth and the onboarding page: Connect as a browser and a platform see it."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from services.stripe_sim import accounts, connect
from services.stripe_sim.api import key_of, read_request
from services.stripe_sim.connect import OAuthError
from services.stripe_sim.errors import ApiError
from services.stripe_sim.routes.pages import HEADERS, Pages
from services.stripe_sim.sandbox import Sandbox

NEW_ACCOUNT = "new"


class OAuth:
    """OAuth for Standard accounts, and account links."""

    def __init__(self, sandbox: Sandbox, pages: Pages) -> None:
        self.sandbox = sandbox
        self.pages = pages

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/oauth/authorize", self.authorize, methods=["GET", "POST"]),
            Route("/oauth/v2/authorize", self.authorize, methods=["GET", "POST"]),
            Route("/oauth/token", self.token, methods=["POST"]),
            Route("/oauth/deauthorize", self.deauthorize, methods=["POST"]),
            Route("/connect/onboarding/{link}", self.onboard, methods=["GET", "POST"]),
        ]

    async def authorize(self, request: Request) -> Response:
        """Ask the owner of an account whether the platform may act for it."""
        query = dict(request.query_params)
        try:
            connect.check_authorize(self.sandbox, query)
        except OAuthError as error:
            return self.pages.show("message.html", error.status, title="Connect", text=str(error))
        if request.method == "GET":
            return self._ask()
        answer = await request.form()
        if answer.get("decision") != "connect":
            return RedirectResponse(connect.deny(query), 303, HEADERS)
        account_id = str(answer.get("account", ""))
        if account_id == NEW_ACCOUNT:
            account_id = self.sandbox.new_id("acct_1", 15)
            accounts.build(self.sandbox, account_id, {"name": str(answer.get("name") or "")[:80]})
        elif self.sandbox.store.get(account_id, "account", account_id) is None:
            return self._ask()
        url = connect.grant(self.sandbox, account_id, query)
        self.sandbox.store.commit()
        return RedirectResponse(url, 303, HEADERS)

    def _ask(self) -> Response:
        platform = self.sandbox.scope(self.sandbox.platform).own_account
        return self.pages.show(
            "authorize.html",
            platform=platform["settings"]["dashboard"]["display_name"],
            accounts=[
                (account_id, account["settings"]["dashboard"]["display_name"])
                for account_id, account in self.sandbox.store.everywhere("account")
                if account_id != self.sandbox.platform
            ][-20:],
            new=NEW_ACCOUNT,
        )

    async def token(self, request: Request) -> Response:
        """Turn a code into access."""
        return await self._answer(request, self._token)

    def _token(self, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("grant_type") != "authorization_code":
            raise OAuthError("unsupported_grant_type", "grant_type must be authorization_code")
        if not isinstance(values.get("code"), str):
            raise OAuthError("invalid_request", "No grant code was given")
        return connect.exchange(self.sandbox, values["code"])

    async def deauthorize(self, request: Request) -> Response:
        """End a platform's access to an account."""
        return await self._answer(request, self._deauthorize)

    def _deauthorize(self, values: dict[str, Any]) -> dict[str, Any]:
        account_id = values.get("stripe_user_id")
        if values.get("client_id") != self.sandbox.settings.client_id:
            raise OAuthError("invalid_client", "client_id is not the platform's", 401)
        if not isinstance(account_id, str):
            raise OAuthError("invalid_request", "stripe_user_id is missing")
        connect.deauthorize(self.sandbox, account_id)
        return {"stripe_user_id": account_id}

    async def _answer(self, request: Request, work: Any) -> Response:
        """Do a platform's OAuth call: authenticated by its secret key."""
        try:
            values = await read_request(request) or {}
            self._require_platform(values, request)
            answer = work(values)
        except (OAuthError, ApiError) as error:
            self.sandbox.store.rollback()
            accounts.index_keys(self.sandbox)
            if isinstance(error, ApiError):
                error = OAuthError("invalid_request", error.message)
            return JSONResponse(error.body(), error.status)
        self.sandbox.store.commit()
        return JSONResponse(answer)

    def _require_platform(self, values: dict[str, Any], request: Request) -> None:
        key = values.get("client_secret") or key_of(request)
        entry = self.sandbox.keys.get(str(key))
        if entry is None or entry.account != self.sandbox.platform or entry.kind != accounts.SECRET:
            raise OAuthError("invalid_client", "Invalid API key provided", 401)

    async def onboard(self, request: Request) -> Response:
        """Show the onboarding of an account, and complete it."""
        found = self.sandbox.find_anywhere(connect.LINK, request.path_params["link"])
        if found is None:
            return self.pages.missing()
        scope, link = found
        if not connect.link_is_good(scope, link):
            return RedirectResponse(link["refresh_url"], 303, HEADERS)
        own = self.sandbox.scope(link["account"])
        if request.method == "GET":
            return self.pages.show(
                "onboarding.html", account=own.own_account, return_url=link["return_url"]
            )
        link["used"] = True
        scope.save(link)
        connect.set_ready(own, ready=True)
        self.sandbox.store.commit()
        return RedirectResponse(link["return_url"], 303, HEADERS)
