"""Events of the webhook gateway: what Stripe said, verified and durable; dry runs that were ended."""

from pydantic import AwareDatetime

from libs.contracts.envelope import Fact


class StripeEventReceived(Fact):
    """A verified Stripe event, stored before Stripe was answered.

    Attributes:
        account: `acct_…` of a connected account, or `platform`.
        stripe_event_id: `evt_…`; unique per account and mode.
        event_type: Stripe's word, in one form for snapshot and thin events (`invoice.paid`).
        object_type, object_id: what the event is about (`invoice`, `in_…`).
        payload: the event as JSON text, as received; None when it is too large to travel (the
            archive keeps it).
        replay_id: set when the event was sent again from the archive.
        dry_run: of a replay that only asks what would change: nothing is fetched into the mirror.
    """

    account: str
    stripe_event_id: str
    event_type: str
    api_version: str | None
    created_at: AwareDatetime
    object_type: str | None
    object_id: str | None
    payload: str | None
    replay_id: str | None = None
    dry_run: bool = False


class WebhookReplayCanceled(Fact):
    """A dry run was ended before its end: what of it was not compared yet need not be.

    Its tenant is the one whose events were tried, the platform where it was every tenant's.

    Attributes:
        replay_id: as it travels with the events (`rpl_…`).
    """

    replay_id: str
