"""`/payments`: what customers paid, what was given back, and giving it back."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from libs.ids import new_id
from libs.money import MoneyError, exponent_of
from services.console.forms import Once, OwnForm, Text, attempt
from services.console.origin import Api, ApiProblem
from services.console.routes import PageRoute, SignedIn, page, segment
from services.console.shapes import Listed
from services.console.shapes_payments import PAYMENT_STATES, Payment, Refund
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

API = "/api/v1/payments"
PAGE_SIZE = "50"
REFUNDS_SHOWN = "50"
REASONS = (
    ("", "not said"),
    ("requested_by_customer", "requested by the customer"),
    ("duplicate", "paid twice"),
    ("fraudulent", "fraudulent"),
)
Cursor = Annotated[str | None, Query(max_length=1024)]


@router.get("/payments")
async def list_payments(request: Request, viewer: SignedIn, cursor: Cursor = None) -> Response:
    """The payments of the tenant in view, or of all; newest first."""
    found = await viewer.api.read(Listed[Payment], API, limit=PAGE_SIZE, cursor=cursor)
    return page(request, "payments.html", viewer, payments=found.items, cursor=found.next_cursor)


@router.get("/payments/{payment}")
async def show_payment(request: Request, payment: str, viewer: SignedIn) -> Response:
    """One payment, with what can be done about it."""
    return await _show(request, viewer, payment, None)


@router.post("/payments/{payment}/refund", dependencies=[OwnForm])
async def refund(
    request: Request,
    payment: str,
    viewer: SignedIn,
    amount: Text = "",
    reason: Text = "",
    once: Once = "",
) -> Response:
    """Give a payment back, all of it or a part."""
    path = f"/payments/{segment(payment)}"

    async def show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        return await _show(request, viewer, payment, problem)

    work = _refund(viewer, payment, amount.strip(), reason, once)
    return await attempt(request, viewer, work, show, path, "refund_asked")


async def _refund(viewer: Viewer, payment: str, amount: str, reason: str, once: str) -> None:
    paid = await viewer.api.read(Payment, f"{API}/{payment}")
    body: dict[str, object] = {"payment": paid.id}
    if amount:
        minor = _minor(amount, paid.amount.currency)
        body["amount"] = {"amount_minor": minor, "currency": paid.amount.currency}
    if reason:
        body["reason"] = reason
    await _of_owner(viewer, paid).change("POST", "/api/v1/refunds", body, once=once or None)


def _of_owner(viewer: Viewer, payment: Payment) -> Api:
    """The API for the tenant whose payment it is, also where an operator has chosen none."""
    return viewer.api if viewer.tenant else viewer.whole.for_tenant(payment.tenant_id)


def _minor(text: str, currency: str) -> int:
    """An amount as people write it (`12.50`) in whole minor units.

    Raises:
        ApiProblem: it is none, or finer than the currency.
    """
    try:
        minor = Decimal(text).scaleb(exponent_of(currency))
    except (InvalidOperation, MoneyError):
        minor = Decimal("NaN")
    if not minor.is_finite() or minor != minor.to_integral_value() or not 0 < minor < 10**15:
        raise ApiProblem(
            422,
            f"The amount must be written in {currency}, such as 12.50. Leave it empty to give "
            "everything back.",
        )
    return int(minor)


async def _show(
    request: Request, viewer: Viewer, payment: str, problem: ApiProblem | None
) -> Response:
    found = await viewer.api.read(Payment, f"{API}/{segment(payment)}")
    refunds = await viewer.api.read(
        Listed[Refund], "/api/v1/refunds", payment=found.id, limit=REFUNDS_SHOWN
    )
    return page(
        request,
        "payment.html",
        viewer,
        problem=problem,
        payment=found,
        meaning=PAYMENT_STATES.get(found.status),
        refunds=refunds.items,
        reasons=REASONS,
        once=new_id,
    )
