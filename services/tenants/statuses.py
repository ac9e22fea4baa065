"""Which status a tenant has, by the subscription the platform bills it for (requirement T6).

| subscription | tenant | why |
|---|---|---|
| trialing | trialing | it tries the product |
| active | active | paid, or on a plan that costs nothing |
| past_due | past_due | a payment failed and is being tried again; the product goes on |
| incomplete | past_due | the first payment is still awaited: money is owed, nothing is taken away yet |
| unpaid | suspended | every try to collect failed |
| paused | suspended | the trial ended without a way to pay, or staff paused it |
| canceled | canceled | it is over |

The live subscription decides where there is one; until a tenant goes live it is the one in test mode.
"""

from collections.abc import Mapping

from libs.contracts.billing import SubscriptionStatus
from libs.contracts.tenants import TenantStatus

STATUS_OF_SUBSCRIPTION: Mapping[SubscriptionStatus, TenantStatus] = {
    "trialing": "trialing",
    "active": "active",
    "past_due": "past_due",
    "incomplete": "past_due",
    "unpaid": "suspended",
    "paused": "suspended",
    "canceled": "canceled",
}
