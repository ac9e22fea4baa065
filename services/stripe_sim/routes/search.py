"""/v1/<noun>/search."""

from collections.abc import Callable

from services.stripe_sim import search
from services.stripe_sim.errors import invalid
from services.stripe_sim.params import Required
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_NOUNS = {
    "charges": "charge",
    "customers": "customer",
    "invoices": "invoice",
    "payment_intents": "payment_intent",
    "prices": "price",
    "products": "product",
    "subscriptions": "subscription",
}


def _search_of(path: str, kind: str) -> Callable[[Scope, Params], Obj]:
    def search_objects(scope: Scope, params: Params) -> Obj:
        found = search.search(scope, kind, params["query"])[::-1]
        limit = params.get("limit") or 10
        start = params.get("page") or "0"
        if not start.isdigit() or len(start) > 9 or not 1 <= limit <= 100:
            raise invalid("Invalid page or limit.", "page")
        end = int(start) + limit
        more = end < len(found)
        return {
            "object": "search_result",
            "data": found[int(start) : end],
            "has_more": more,
            "next_page": str(end) if more else None,
            "url": path,
        }

    return search_objects


for _name, _kind in _NOUNS.items():
    _path = f"/v1/{_name}/search"
    endpoint("GET", _path, {"limit": int, "page": str, "query": Required(str)})(
        _search_of(_path, _kind)
    )
