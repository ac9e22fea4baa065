"""Stripe's test cards, and what each of them does."""

from dataclasses import dataclass

DECLINES = {
    "card_declined": "Your card was declined.",
    "insufficient_funds": "Your card has insufficient funds.",
    "lost_card": "Your card has been declined.",
    "stolen_card": "Your card has been declined.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
    "incorrect_number": "Your card number is incorrect.",
    "authentication_required": "Your card was declined. This transaction requires authentication.",
    "fraudulent": "Your card was declined.",
}

_OWN_CODE = ("expired_card", "incorrect_cvc", "processing_error", "incorrect_number")


@dataclass(frozen=True)
class Card:
    """One test card.

    `declines` is the reason every charge fails; `attaches` says whether it can be saved all the
    same; `later_only` limits the failure to charges made without the payer. `authenticates` is
    `never`, `until_saved` (3-D Secure once, then good for later charges) or `always`. `refunds` is
    `at_once`, `slowly` (pending at first) or `in_vain` (they fail after they had succeeded).
    """

    number: str
    brand: str = "visa"
    declines: str | None = None
    attaches: bool = True
    later_only: bool = False
    authenticates: str = "never"
    disputed_as: str | None = None
    refunds: str = "at_once"

    @property
    def last4(self) -> str:
        """The last four digits, the only ones ever shown."""
        return self.number[-4:]


_CARDS = (
    Card("4242424242424242"),
    Card("4000056655665556"),
    Card("5555555555554444", "mastercard"),
    Card("378282246310005", "amex"),
    Card("4000002500000003"),
    Card("4000000000000077"),
    Card("4000000000000002", declines="card_declined", attaches=False),
    Card("4000000000009995", declines="insufficient_funds", attaches=False),
    Card("4000000000009987", declines="lost_card", attaches=False),
    Card("4000000000009979", declines="stolen_card", attaches=False),
    Card("4000000000000069", declines="expired_card", attaches=False),
    Card("4000000000000127", declines="incorrect_cvc", attaches=False),
    Card("4000000000000119", declines="processing_error", attaches=False),
    Card("4242424242424241", declines="incorrect_number", attaches=False),
    Card("4100000000000019", declines="fraudulent", attaches=False),
    Card("4000000000000341", declines="card_declined", later_only=True),
    Card("4000002500003155", authenticates="until_saved"),
    Card("4000002760003184", authenticates="always"),
    Card("4000008260003178", authenticates="always", declines="insufficient_funds"),
    Card("4000000000000259", disputed_as="fraudulent"),
    Card("4000000000002685", disputed_as="product_not_received"),
    Card("4000000000007726", refunds="slowly"),
    Card("4000000000005126", refunds="in_vain"),
)

BY_NUMBER = {card.number: card for card in _CARDS}

_BY_NAME = {
    "visa": "4242424242424242",
    "visa_debit": "4000056655665556",
    "mastercard": "5555555555554444",
    "amex": "378282246310005",
    "bypassPending": "4000000000000077",
    "chargeDeclined": "4000000000000002",
    "visa_chargeDeclined": "4000000000000002",
    "chargeDeclinedInsufficientFunds": "4000000000009995",
    "visa_chargeDeclinedInsufficientFunds": "4000000000009995",
    "chargeDeclinedLostCard": "4000000000009987",
    "chargeDeclinedStolenCard": "4000000000009979",
    "chargeDeclinedExpiredCard": "4000000000000069",
    "chargeDeclinedIncorrectCvc": "4000000000000127",
    "chargeDeclinedProcessingError": "4000000000000119",
    "chargeDeclinedFraudulent": "4100000000000019",
    "chargeCustomerFail": "4000000000000341",
    "authenticationRequiredOnSetup": "4000002500003155",
    "authenticationRequired": "4000002760003184",
    "threeDSecure2Required": "4000002760003184",
    "threeDSecureRequired": "4000002760003184",
    "authenticationRequiredChargeDeclinedInsufficientFunds": "4000008260003178",
    "createDispute": "4000000000000259",
    "createDisputeProductNotReceived": "4000000000002685",
    "pendingRefund": "4000000000007726",
    "refundFail": "4000000000005126",
}


def named(name: str) -> Card | None:
    """Return the card behind `pm_card_<name>` or `tok_<name>`."""
    number = _BY_NAME.get(name)
    return BY_NUMBER[number] if number else None


def numbered(number: str) -> Card | None:
    """Return the card with this number; spaces and dashes are how people write it."""
    return BY_NUMBER.get(number.replace(" ", "").replace("-", ""))


def codes(reason: str) -> tuple[str, str | None]:
    """Return (error code, decline code) for a reason to decline."""
    if reason in _OWN_CODE:
        return reason, None
    if reason == "authentication_required":
        return reason, reason
    return "card_declined", "generic_decline" if reason == "card_declined" else reason
