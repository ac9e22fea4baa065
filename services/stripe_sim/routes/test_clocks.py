"""/v1/test_helpers/test_clocks."""

from services.stripe_sim import clocks, customers
from services.stripe_sim.events import emit
from services.stripe_sim.params import LIST_PARAMS, Required
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_PATH = "/v1/test_helpers/test_clocks"


@endpoint("POST", _PATH, {"frozen_time": Required(int), "name": str})
def create_test_clock(scope: Scope, params: Params) -> Obj:
    """Create a clock that stands at a time."""
    return clocks.build(scope, params["frozen_time"], params.get("name"))


@endpoint("GET", _PATH + "/{}")
def retrieve_test_clock(scope: Scope, _params: Params, clock_id: str) -> Obj:
    """Return a clock; its status tells when an advance is done."""
    return scope.get(clocks.KIND, clock_id)


@endpoint("GET", _PATH, LIST_PARAMS)
def list_test_clocks(scope: Scope, params: Params) -> Obj:
    """List the clocks."""
    return page(scope, scope.all(clocks.KIND), params, _PATH)


@endpoint("POST", _PATH + "/{}/advance", {"frozen_time": Required(int)})
def advance_test_clock(scope: Scope, params: Params, clock_id: str) -> Obj:
    """Begin to move a clock forward."""
    return clocks.start_advance(scope, scope.get(clocks.KIND, clock_id), params["frozen_time"])


@endpoint("DELETE", _PATH + "/{}")
def delete_test_clock(scope: Scope, _params: Params, clock_id: str) -> Obj:
    """Delete a clock with its customers."""
    clock = scope.get(clocks.KIND, clock_id)
    for customer in scope.all("customer", test_clock=clock_id):
        if not customer.get("deleted"):
            customers.delete(scope, customer)
    scope.sandbox.store.remove(scope.account, clock)
    emit(scope, "test_helpers.test_clock.deleted", clock)
    return {"id": clock_id, "object": clocks.KIND, "deleted": True}
