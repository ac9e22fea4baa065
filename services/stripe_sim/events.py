"""Events: a snapshot of an object at the moment it changed, and who is to hear of it."""

import json
from typing import Any

from services.stripe_sim import destinations
from services.stripe_sim.render import render
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.settings import API_VERSION
from services.stripe_sim.store import Obj

PENDING, DELIVERED, DROPPED = "pending", "delivered", "dropped"


def emit(scope: Scope, kind: str, obj: Obj, previous: dict[str, Any] | None = None) -> Obj:
    """Record an event of this kind about an object as it is now, and queue its webhooks.

    The snapshot is kept as text: it is never rendered again, however the object changes. An
    event's `created` is real time even where the object lives on a test clock.
    """
    data: dict[str, Any] = {"object": render(scope, obj)}
    if previous is not None:
        data["previous_attributes"] = previous
    event: Obj = {
        "id": scope.new_id("evt_1", 23),
        "object": "event",
        "api_version": API_VERSION,
        "created": scope.wall_now(),
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": scope.request_id, "idempotency_key": scope.idempotency_key},
        "type": kind,
        "_sim": {"data": json.dumps(data, separators=(",", ":")), "deliveries": {}},
    }
    for owner, endpoint in hearers(scope, kind):
        if destinations.is_thin(endpoint) and "thin_id" not in event["_sim"]:
            event["_sim"]["thin_id"] = scope.new_id("evt_test_6")
        event["_sim"]["deliveries"][endpoint["id"]] = PENDING
        scope.sandbox.wake_sender(scope.account, event["id"], endpoint["id"])
        event["_sim"].setdefault("owners", {})[endpoint["id"]] = owner
    event["pending_webhooks"] = len(event["_sim"]["deliveries"])
    return scope.save(event)


def hearers(scope: Scope, kind: str) -> list[tuple[str, Obj]]:
    """Return (owner, endpoint) for the account's own endpoints and its platforms' Connect ones."""
    own = destinations.all_of(scope, scope.account)
    found = [(scope.account, each) for each in own if destinations.hears_itself(each)]
    account = scope.find("account", scope.account)
    for platform in account["_sim"]["platforms"] if account is not None else ():
        of_platform = destinations.all_of(scope, platform)
        found += [(platform, each) for each in of_platform if destinations.is_of_connect(each)]
    return [(owner, endpoint) for owner, endpoint in found if destinations.wants(endpoint, kind)]


def settle(scope: Scope, event: Obj, endpoint_id: str, state: str) -> None:
    """Record that a webhook was delivered or given up."""
    event["_sim"]["deliveries"][endpoint_id] = state
    event["pending_webhooks"] = list(event["_sim"]["deliveries"].values()).count(PENDING)
    scope.save(event)


def body_of(event: Obj, account: str | None) -> bytes:
    """Return the JSON of an event as it is delivered; `account` is named on Connect events."""
    envelope = {name: value for name, value in event.items() if name != "_sim"}
    if account is not None:
        envelope["account"] = account
    head = json.dumps(envelope, separators=(",", ":"))
    return f'{head[:-1]},"data":{event["_sim"]["data"]}}}'.encode()


def thin_body_of(event: Obj, account: str | None) -> bytes:
    """Return the JSON of an event for an endpoint that wants it without the object."""
    return json.dumps(destinations.notification(event, account), separators=(",", ":")).encode()


def was_delivered(event: Obj) -> bool:
    """Say whether every endpoint that was to hear of the event has accepted it."""
    return all(state == DELIVERED for state in event["_sim"]["deliveries"].values())
