"""/v2/core/events and /v2/core/event_destinations."""

from services.stripe_sim import destinations
from services.stripe_sim.errors import invalid, no_such
from services.stripe_sim.params import METADATA, Required, merge_metadata
from services.stripe_sim.routes.events import ENDPOINTS_MAX, check_url
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_PATH = "/v2/core/event_destinations"
_INCLUDE = ("webhook_endpoint.signing_secret", "webhook_endpoint.url")


@endpoint("GET", "/v2/core/events/{}")
def retrieve_thin_event(scope: Scope, _params: Params, event_id: str) -> Obj:
    """Return a thin event, with the id of the snapshot that was sent of the same change."""
    found = destinations.thin_event(scope, event_id)
    if found is None:
        raise no_such("v2.core.event", event_id)
    return found


@endpoint(
    "POST",
    _PATH,
    {
        "description": str,
        "enabled_events": Required([str]),
        "event_payload": Required(("snapshot", "thin")),
        "events_from": [str],
        "include": [str],
        "metadata": METADATA,
        "name": Required(str),
        "snapshot_api_version": str,
        "type": Required(("webhook_endpoint",)),
        "webhook_endpoint": Required({"url": Required(str)}),
    },
)
def create_destination(scope: Scope, params: Params) -> Obj:
    """Register a URL for events; its secret is in this answer only, where asked for."""
    if len(scope.all(destinations.KIND)) >= ENDPOINTS_MAX:
        raise invalid(f"You have reached the maximum of {ENDPOINTS_MAX} event destinations.")
    check_url(params["webhook_endpoint"]["url"])
    wanted = set(params.get("events_from") or []) - {destinations.SELF, destinations.ACCOUNTS}
    if wanted:
        raise invalid(f"Invalid events_from: {min(wanted)}", "events_from")
    secret = scope.new_id("whsec_", 32)
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    made = destinations.build(scope, fields, secret)
    return _shown(made, params.get("include"), secret)


@endpoint("GET", _PATH + "/{}", {"include": [str]})
def retrieve_destination(scope: Scope, params: Params, destination_id: str) -> Obj:
    """Return a destination."""
    return _shown(scope.get(destinations.KIND, destination_id), params.get("include"))


@endpoint("GET", _PATH, {"include": [str], "limit": int})
def list_destinations(scope: Scope, params: Params) -> Obj:
    """List the destinations, all on one page."""
    found = [_shown(each, params.get("include")) for each in scope.all(destinations.KIND)]
    return {"data": found[::-1], "next_page_url": None, "previous_page_url": None}


@endpoint("POST", _PATH + "/{}/disable")
def disable_destination(scope: Scope, _params: Params, destination_id: str) -> Obj:
    """Send a destination nothing more; ends the retries of its events."""
    destination = scope.get(destinations.KIND, destination_id)
    destination |= {"status": "disabled", "status_details": {"disabled": {"reason": "user"}}}
    return _shown(scope.save(destination))


@endpoint("POST", _PATH + "/{}/enable")
def enable_destination(scope: Scope, _params: Params, destination_id: str) -> Obj:
    """Send a destination events again."""
    destination = scope.get(destinations.KIND, destination_id)
    destination["status"] = "enabled"
    destination.pop("status_details", None)
    return _shown(scope.save(destination))


@endpoint("DELETE", _PATH + "/{}")
def delete_destination(scope: Scope, _params: Params, destination_id: str) -> Obj:
    """Delete a destination."""
    scope.sandbox.store.remove(scope.account, scope.get(destinations.KIND, destination_id))
    return {"id": destination_id, "object": destinations.KIND, "deleted": True}


def _shown(destination: Obj, include: list[str] | None = None, secret: str | None = None) -> Obj:
    """Return a destination with what only an explicit wish shows."""
    unknown = set(include or []) - set(_INCLUDE)
    if unknown:
        raise invalid(f"Invalid include: {min(unknown)}", "include")
    shown = {name: value for name, value in destination.items() if name != "_sim"}
    details = {}
    if "webhook_endpoint.url" in (include or []):
        details["url"] = destinations.url_of(destination)
    if secret is not None and "webhook_endpoint.signing_secret" in (include or []):
        details["signing_secret"] = secret
    return {**shown, "webhook_endpoint": details} if details else shown
