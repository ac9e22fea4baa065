"""/v1/events and /v1/webhook_endpoints."""

from services.stripe_sim import accounts
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import was_delivered
from services.stripe_sim.params import (
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

TYPES_MAX = 20
ENDPOINTS_MAX = 16


@endpoint("GET", "/v1/events/{}")
def retrieve_event(scope: Scope, _params: Params, event_id: str) -> Obj:
    """Return an event as it was when it happened."""
    return scope.get("event", event_id)


@endpoint(
    "GET",
    "/v1/events",
    {**LIST_PARAMS, "created": CREATED, "delivery_success": bool, "type": str, "types": [str]},
)
def list_events(scope: Scope, params: Params) -> Obj:
    """List events; `delivery_success=false` lists what some endpoint has not accepted."""
    types = params.get("types") or ([params["type"]] if params.get("type") else [])
    if len(types) > TYPES_MAX:
        raise invalid(f"You may list at most {TYPES_MAX} types.", "types")
    found = [event for event in scope.all("event") if not types or _is_of(event, types)]
    wanted = params.get("delivery_success")
    if wanted is not None:
        found = [event for event in found if was_delivered(event) is wanted]
    return page(scope, found, params, "/v1/events")


def _is_of(event: Obj, types: list[str]) -> bool:
    kind = event["type"]
    return any(
        kind == wanted or (wanted.endswith(".*") and kind.startswith(wanted[:-1]))
        for wanted in types
    )


_WRITE: Schema = {
    "description": str,
    "enabled_events": [str],
    "metadata": METADATA,
    "url": str,
}


@endpoint(
    "POST",
    "/v1/webhook_endpoints",
    {
        **_WRITE,
        "enabled_events": Required([str]),
        "url": Required(str),
        "api_version": str,
        "connect": bool,
    },
)
def create_webhook_endpoint(scope: Scope, params: Params) -> Obj:
    """Register a URL for events; its secret is in this answer only."""
    if len(scope.all("webhook_endpoint")) >= ENDPOINTS_MAX:
        raise invalid(f"You have reached the maximum of {ENDPOINTS_MAX} test webhook endpoints.")
    check_url(params["url"])
    endpoint_obj = accounts.build_endpoint(
        scope,
        scope.new_id("we_1"),
        params["url"],
        params["enabled_events"],
        connect=bool(params.get("connect")),
    )
    secret = scope.new_id("whsec_", 32)
    endpoint_obj |= {
        "api_version": params.get("api_version"),
        "application": scope.sandbox.settings.client_id if params.get("connect") else None,
        "description": params.get("description"),
        "metadata": merge_metadata({}, params.get("metadata", {})),
    }
    endpoint_obj["_sim"]["secrets"] = [{"secret": secret, "expires_at": None}]
    return {**endpoint_obj, "secret": secret}


def check_url(url: str) -> None:
    """Refuse what no webhook can be sent to.

    Raises:
        ApiError: the address has no scheme.
    """
    if not url.startswith(("http://", "https://")):
        raise invalid(
            "Invalid URL: An explicit scheme (such as https) must be provided.",
            "url",
            "url_invalid",
        )


@endpoint("GET", "/v1/webhook_endpoints/{}")
def retrieve_webhook_endpoint(scope: Scope, _params: Params, endpoint_id: str) -> Obj:
    """Return a webhook endpoint."""
    return scope.get("webhook_endpoint", endpoint_id)


@endpoint("POST", "/v1/webhook_endpoints/{}", {**_WRITE, "disabled": bool})
def update_webhook_endpoint(scope: Scope, params: Params, endpoint_id: str) -> Obj:
    """Change a webhook endpoint; disabling it ends the retries of its events."""
    endpoint_obj = scope.get("webhook_endpoint", endpoint_id)
    if params.get("url"):
        check_url(params["url"])
    for name in ("description", "enabled_events", "url"):
        if params.get(name) is not None:
            endpoint_obj[name] = params[name]
    if "disabled" in params:
        endpoint_obj["status"] = "disabled" if params["disabled"] else "enabled"
    if "metadata" in params:
        endpoint_obj["metadata"] = merge_metadata(endpoint_obj["metadata"], params["metadata"])
    return scope.save(endpoint_obj)


@endpoint("DELETE", "/v1/webhook_endpoints/{}")
def delete_webhook_endpoint(scope: Scope, _params: Params, endpoint_id: str) -> Obj:
    """Delete a webhook endpoint."""
    endpoint_obj = scope.get("webhook_endpoint", endpoint_id)
    scope.sandbox.store.remove(scope.account, endpoint_obj)
    return {"id": endpoint_id, "object": "webhook_endpoint", "deleted": True}


@endpoint("GET", "/v1/webhook_endpoints", LIST_PARAMS)
def list_webhook_endpoints(scope: Scope, params: Params) -> Obj:
    """List webhook endpoints."""
    return page(scope, scope.all("webhook_endpoint"), params, "/v1/webhook_endpoints")
