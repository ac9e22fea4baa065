"""/v1/subscription_items: the items of a subscription, each on its own."""

from services.stripe_sim import subscription_changes
from services.stripe_sim.errors import no_such
from services.stripe_sim.params import LIST_PARAMS, Required, Schema
from services.stripe_sim.routes.subscriptions import ITEM, item_wishes
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_CHANGE: Schema = {
    "payment_behavior": ("allow_incomplete", "default_incomplete", "error_if_incomplete"),
    "proration_behavior": subscription_changes.PRORATIONS,
    "proration_date": int,
}


def _find(scope: Scope, item_id: str) -> tuple[Obj, Obj]:
    for subscription in scope.all("subscription"):
        for item in subscription["items"]["data"]:
            if item["id"] == item_id:
                return subscription, item
    raise no_such("subscription_item", item_id)


def _change(scope: Scope, subscription: Obj, wish: Params, params: Params) -> None:
    fields = {name: params[name] for name in _CHANGE if name in params}
    items = item_wishes(scope, [wish])
    subscription_changes.update(scope, subscription, {**fields, "items": items})


@endpoint("POST", "/v1/subscription_items", {**ITEM, **_CHANGE, "subscription": Required(str)})
def create_subscription_item(scope: Scope, params: Params) -> Obj:
    """Add an item to a subscription."""
    subscription = scope.get("subscription", params["subscription"], "subscription")
    wish = {name: params[name] for name in ITEM if name in params}
    _change(scope, subscription, wish, params)
    item: Obj = subscription["items"]["data"][-1]
    return item


@endpoint("GET", "/v1/subscription_items/{}")
def retrieve_subscription_item(scope: Scope, _params: Params, item_id: str) -> Obj:
    """Return an item."""
    return _find(scope, item_id)[1]


@endpoint("POST", "/v1/subscription_items/{}", {**ITEM, **_CHANGE, "off_session": bool})
def update_subscription_item(scope: Scope, params: Params, item_id: str) -> Obj:
    """Change price, quantity or metadata of an item."""
    subscription, item = _find(scope, item_id)
    wish = {name: params[name] for name in ITEM if name in params}
    _change(scope, subscription, {**wish, "id": item_id}, params)
    return item


@endpoint("DELETE", "/v1/subscription_items/{}", {**_CHANGE, "clear_usage": bool})
def delete_subscription_item(scope: Scope, params: Params, item_id: str) -> Obj:
    """Take an item off its subscription."""
    subscription, _item = _find(scope, item_id)
    _change(scope, subscription, {"id": item_id, "deleted": True}, params)
    return {"id": item_id, "object": "subscription_item", "deleted": True}


@endpoint("GET", "/v1/subscription_items", {**LIST_PARAMS, "subscription": Required(str)})
def list_subscription_items(scope: Scope, params: Params) -> Obj:
    """List the items of a subscription."""
    subscription = scope.get("subscription", params["subscription"], "subscription")
    return {
        "object": "list",
        "data": subscription["items"]["data"],
        "has_more": False,
        "url": "/v1/subscription_items",
    }
