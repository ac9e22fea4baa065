"""Events of stripe_sync about payouts of the platform's account: whose money they are made of."""

from libs.contracts.envelope import Fact


class PayoutAllocated(Fact):
    """So much of an automatic payout of the platform's account was this tenant's money.

    There is one for each tenant whose money is in it, and one for the platform, which has the rest.

    Attributes:
        part, parts: 1 to `parts`. All parts are told together; their shares add up to the payout.
        share_minor: this tenant's; below zero where refunds and fees were more than payments.
        booked_minor: what the payout's own movement says of this tenant already: all of it for the
            platform, nothing for everybody else.
        taken_back: the payout came back, and so do the shares.
    """

    account: str
    stripe_payout_id: str
    part: int
    parts: int
    share_minor: int
    booked_minor: int
    currency: str
    taken_back: bool = False
