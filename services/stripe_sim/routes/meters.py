"""/v1/billing/meters and /v1/billing/meter_events."""

from services.stripe_sim import meters
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import ANY, LIST_PARAMS, Required
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_PATH = "/v1/billing/meters"
WINDOW_SECONDS = {"hour": 3600, "day": 86_400}
WINDOWS_MAX = 1000


@endpoint(
    "POST",
    _PATH,
    {
        "customer_mapping": {"event_payload_key": Required(str), "type": Required(("by_id",))},
        "default_aggregation": Required({"formula": Required(("count", "last", "sum"))}),
        "display_name": Required(str),
        "event_name": Required(str),
        "event_time_window": ("day", "hour"),
        "value_settings": {"event_payload_key": Required(str)},
    },
)
def create_meter(scope: Scope, params: Params) -> Obj:
    """Create a meter."""
    return meters.build(scope, params)


@endpoint("GET", _PATH + "/{}")
def retrieve_meter(scope: Scope, _params: Params, meter_id: str) -> Obj:
    """Return a meter."""
    return scope.get(meters.METER, meter_id)


@endpoint("POST", _PATH + "/{}", {"display_name": str})
def update_meter(scope: Scope, params: Params, meter_id: str) -> Obj:
    """Rename a meter."""
    meter = scope.get(meters.METER, meter_id)
    meter["display_name"] = params.get("display_name") or meter["display_name"]
    meter["updated"] = scope.wall_now()
    scope.save(meter)
    emit(scope, "billing.meter.updated", meter)
    return meter


@endpoint("GET", _PATH, {**LIST_PARAMS, "status": ("active", "inactive")})
def list_meters(scope: Scope, params: Params) -> Obj:
    """List meters."""
    return page(scope, scope.all(meters.METER, status=params.get("status")), params, _PATH)


@endpoint("POST", _PATH + "/{}/deactivate")
def deactivate_meter(scope: Scope, _params: Params, meter_id: str) -> Obj:
    """Switch a meter off."""
    return meters.set_active(scope, scope.get(meters.METER, meter_id), active=False)


@endpoint("POST", _PATH + "/{}/reactivate")
def reactivate_meter(scope: Scope, _params: Params, meter_id: str) -> Obj:
    """Switch a meter on again."""
    return meters.set_active(scope, scope.get(meters.METER, meter_id), active=True)


@endpoint(
    "POST",
    "/v1/billing/meter_events",
    {"event_name": Required(str), "identifier": str, "payload": Required(ANY), "timestamp": int},
)
def create_meter_event(scope: Scope, params: Params) -> Obj:
    """Record usage."""
    if not isinstance(params["payload"], dict):
        raise invalid("Invalid object", "payload")
    return meters.record(scope, params)


@endpoint(
    "GET",
    _PATH + "/{}/event_summaries",
    {
        **LIST_PARAMS,
        "customer": Required(str),
        "end_time": Required(int),
        "start_time": Required(int),
        "value_grouping_window": ("day", "hour"),
    },
)
def list_event_summaries(scope: Scope, params: Params, meter_id: str) -> Obj:
    """Sum a customer's usage over a time, as a whole or by window, newest first."""
    meter = scope.get(meters.METER, meter_id)
    start, end = params["start_time"], params["end_time"]
    step = WINDOW_SECONDS.get(params.get("value_grouping_window") or "", max(end - start, 1))
    if not 0 < (end - start) <= step * WINDOWS_MAX:
        raise invalid("The time range is empty or has too many windows.", "end_time")
    summaries = []
    for begin in range(start, end, step):
        stop = min(begin + step, end)
        used = meters.aggregate(scope, meter, params["customer"], begin, stop)
        summaries.append(
            {
                "id": f"mtrusg_{meter_id[-8:]}{begin}",
                "object": "billing.meter_event_summary",
                "aggregated_value": float(used),
                "end_time": stop,
                "livemode": False,
                "meter": meter_id,
                "start_time": begin,
            }
        )
    limit = params.get("limit") or 10
    return {
        "object": "list",
        "data": summaries[::-1][:limit],
        "has_more": len(summaries) > limit,
        "url": f"{_PATH}/{meter_id}/event_summaries",
    }
