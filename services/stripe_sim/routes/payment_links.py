"""/v1/payment_links and /v1/billing_portal."""

from decimal import Decimal

from services.stripe_sim import customers, payment_links, portal
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import (
    ANY,
    AUTOMATIC_TAX,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routes.checkout import LINE_ITEM, PAYMENT_INTENT_DATA, resolve_lines
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_AFTER: Schema = {
    "type": Required(("hosted_confirmation", "redirect")),
    "redirect": {"url": Required(str)},
    "hosted_confirmation": {"custom_message": str},
}

_RESTRICTIONS: Schema = {"completed_sessions": {"limit": Required(int)}}


@endpoint(
    "POST",
    "/v1/payment_links",
    {
        "after_completion": _AFTER,
        "allow_promotion_codes": bool,
        "application_fee_amount": int,
        "application_fee_percent": Decimal,
        "automatic_tax": AUTOMATIC_TAX,
        "billing_address_collection": ("auto", "required"),
        "currency": str,
        "customer_creation": ("always", "if_required"),
        "inactive_message": str,
        "line_items": Required([LINE_ITEM]),
        "metadata": METADATA,
        "on_behalf_of": str,
        "payment_intent_data": PAYMENT_INTENT_DATA,
        "payment_method_types": [str],
        "restrictions": _RESTRICTIONS,
        "submit_type": ("auto", "book", "donate", "pay", "subscribe"),
        "subscription_data": {
            "description": str,
            "metadata": METADATA,
            "trial_period_days": int,
        },
    },
)
def create_payment_link(scope: Scope, params: Params) -> Obj:
    """Create a payment link."""
    lines = resolve_lines(scope, params["line_items"])
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    return payment_links.build(scope, fields, lines)


@endpoint("GET", "/v1/payment_links/{}")
def retrieve_payment_link(scope: Scope, _params: Params, link_id: str) -> Obj:
    """Return a payment link."""
    return scope.get("payment_link", link_id)


@endpoint(
    "POST",
    "/v1/payment_links/{}",
    {
        "active": bool,
        "inactive_message": str,
        "metadata": METADATA,
        "restrictions": _RESTRICTIONS,
    },
)
def update_payment_link(scope: Scope, params: Params, link_id: str) -> Obj:
    """Change a payment link, or switch it off."""
    link = scope.get("payment_link", link_id)
    if "active" in params and params["active"] is None:
        raise invalid("Invalid boolean: ", "active")
    link |= {name: params[name] for name in ("active", "inactive_message") if name in params}
    if "restrictions" in params:
        link["restrictions"] = payment_links.restrictions_of(
            params["restrictions"], link["_sim"]["completed"]
        )
    link["metadata"] = merge_metadata(link["metadata"], params.get("metadata", {}))
    scope.save(link)
    emit(scope, "payment_link.updated", link)
    return link


@endpoint("GET", "/v1/payment_links", {**LIST_PARAMS, "active": bool})
def list_payment_links(scope: Scope, params: Params) -> Obj:
    """List payment links."""
    found = scope.all("payment_link", active=params.get("active"))
    return page(scope, found, params, "/v1/payment_links")


@endpoint("GET", "/v1/payment_links/{}/line_items", LIST_PARAMS)
def list_payment_link_items(scope: Scope, params: Params, link_id: str) -> Obj:
    """List what a link sells."""
    items = payment_links.line_items(scope, scope.get("payment_link", link_id))
    limit = params.get("limit") or 10
    return {
        "object": "list",
        "data": items[:limit],
        "has_more": len(items) > limit,
        "url": f"/v1/payment_links/{link_id}/line_items",
    }


@endpoint(
    "POST",
    "/v1/billing_portal/sessions",
    {
        "configuration": str,
        "customer": Required(str),
        "flow_data": ANY,
        "locale": str,
        "on_behalf_of": str,
        "return_url": str,
    },
)
def create_portal_session(scope: Scope, params: Params) -> Obj:
    """Open the portal for a customer."""
    customer = customers.living(scope, params["customer"], "customer")
    return portal.build_session(scope, customer, params)


_FEATURE: Schema = {
    "allowed_updates": [str],
    "enabled": bool,
    "payment_method_configuration": str,
}

_CONFIGURATION: Schema = {
    "business_profile": {
        "headline": str,
        "privacy_policy_url": str,
        "terms_of_service_url": str,
    },
    "default_return_url": str,
    "features": {
        "customer_update": _FEATURE,
        "invoice_history": _FEATURE,
        "payment_method_update": _FEATURE,
        "subscription_cancel": {
            "cancellation_reason": ANY,
            "enabled": bool,
            "mode": ("at_period_end", "immediately"),
            "proration_behavior": ("always_invoice", "create_prorations", "none"),
        },
        "subscription_pause": ANY,
        "subscription_update": ANY,
    },
    "login_page": ANY,
    "metadata": METADATA,
    "name": str,
}


@endpoint("POST", "/v1/billing_portal/configurations", _CONFIGURATION)
def create_portal_configuration(scope: Scope, params: Params) -> Obj:
    """Create a configuration of the portal."""
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    return portal.build_configuration(scope, fields, is_default=False)


@endpoint("GET", "/v1/billing_portal/configurations/{}")
def retrieve_portal_configuration(scope: Scope, _params: Params, configuration_id: str) -> Obj:
    """Return a configuration of the portal."""
    return scope.get(portal.CONFIGURATION, configuration_id)


@endpoint(
    "GET",
    "/v1/billing_portal/configurations",
    {**LIST_PARAMS, "active": bool, "is_default": bool},
)
def list_portal_configurations(scope: Scope, params: Params) -> Obj:
    """List the configurations of the portal."""
    portal.default_configuration(scope)
    names = ("active", "is_default")
    found = scope.all(portal.CONFIGURATION, **{name: params.get(name) for name in names})
    return page(scope, found, params, "/v1/billing_portal/configurations")
