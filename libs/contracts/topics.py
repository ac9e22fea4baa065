"""`TOPICS`: the one record of every topic: who owns it, who reads it, what stands on it.

Creation, docs, access lists and tests read it. Every tenant-keyed topic has the same number of
partitions for ever, so that a tenant's partitions meet in one worker.
"""

from dataclasses import dataclass
from typing import Literal

from libs.contracts import (
    audit,
    billing,
    gateway,
    ledger,
    ledger_holds,
    ledger_periods,
    metering,
    stripe_accounts,
    stripe_payouts,
    stripe_sync,
    tenants,
)
from libs.contracts.envelope import Fact

PARTITIONS = 12

DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True)
class Topic:
    """One topic.

    Attributes:
        producers: the owning service; several only on `audit.events`.
        retention_ms: -1 keeps everything.
        events: types on it; empty for `usage.events`, which carries CloudEvents.
    """

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    events: tuple[type[Fact], ...]
    purpose: str
    retention_ms: int = -1
    cleanup: Literal["delete", "compact"] = "delete"
    append_time: bool = False

    @property
    def config(self) -> dict[str, str]:
        """Kafka's settings of the topic."""
        settings = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(1024 * 1024),
        }
        if self.cleanup == "compact":
            settings["max.compaction.lag.ms"] = str(DAY_MS)
        if self.append_time:
            settings["message.timestamp.type"] = "LogAppendTime"
        return settings


EVERYBODY = ("gateway", "tenants", "metering", "billing", "stripe_sync", "ledger", "reporting")

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="tenants.events",
        producers=("tenants",),
        consumers=("billing", "ledger", "stripe_sync", "reporting"),
        events=(
            tenants.TenantCreated,
            tenants.TenantStatusChanged,
            tenants.TenantWentLive,
            tenants.ClockAdvanceRequested,
        ),
        purpose="Tenants sign up, change status and go live; the business clock is asked to move.",
    ),
    Topic(
        name="tenants.directory",
        producers=("tenants",),
        consumers=EVERYBODY,
        events=(tenants.TenantSnapshot,),
        purpose="The complete public record of each tenant, so that services authenticate offline.",
        cleanup="compact",
    ),
    Topic(
        name="tenants.secrets",
        producers=("tenants",),
        consumers=("gateway", "stripe_sync"),
        events=(tenants.TenantSecrets,),
        purpose="Sealed secrets of each tenant, for the two services that use them.",
        cleanup="compact",
    ),
    Topic(
        name="usage.events",
        producers=("metering",),
        consumers=("metering",),
        events=(),
        purpose="Usage as CloudEvents, from the HTTP ingest or straight from product services.",
        retention_ms=14 * DAY_MS,
        append_time=True,
    ),
    Topic(
        name="metering.events",
        producers=("metering",),
        consumers=("billing", "reporting"),
        events=(
            metering.MeterCreated,
            metering.PeriodUsage,
            metering.LimitThresholdCrossed,
            metering.LimitExceeded,
        ),
        purpose="Meters are defined; a closed period's exact quantities; limits that are reached.",
    ),
    Topic(
        name="billing.events",
        producers=("billing",),
        consumers=("gateway", "tenants", "metering", "stripe_sync", "ledger", "reporting"),
        events=(
            billing.CustomerCreated,
            billing.CustomerErased,
            billing.PlanPublished,
            billing.SubscriptionChanged,
            billing.UsagePeriodClosed,
            billing.InvoiceFinalized,
            billing.InvoiceCredited,
            billing.InvoiceVoided,
            billing.InvoiceWrittenOff,
            billing.InvoiceRecovered,
            billing.InvoicePaid,
            billing.CreditGranted,
            billing.CreditExpired,
            billing.CreditLimitSet,
        ),
        purpose="Customers, plans, subscriptions, invoices and credits.",
    ),
    Topic(
        name="stripe.commands",
        producers=("billing",),
        consumers=("stripe_sync",),
        events=(billing.CompleteInvoice, billing.NameCustomer),
        purpose="What billing wants done at Stripe, and names that Stripe is told, sealed.",
        retention_ms=90 * DAY_MS,
    ),
    Topic(
        name="stripe.events",
        producers=("gateway",),
        consumers=("stripe_sync",),
        events=(gateway.StripeEventReceived, gateway.WebhookReplayCanceled),
        purpose="Verified webhooks, after they are durable; dry runs of replays that were ended.",
        retention_ms=35 * DAY_MS,
    ),
    Topic(
        name="payments.events",
        producers=("stripe_sync",),
        consumers=("tenants", "billing", "ledger", "reporting"),
        events=(
            stripe_sync.StripeCustomerLinked,
            stripe_sync.StripeSubscriptionChanged,
            stripe_sync.StripeInvoiceChanged,
            stripe_sync.PaymentSucceeded,
            stripe_sync.PaymentFailed,
            stripe_sync.OutsidePaymentRecorded,
            stripe_sync.RefundChanged,
            stripe_sync.DisputeChanged,
            stripe_sync.PayoutChanged,
            stripe_payouts.PayoutAllocated,
            stripe_sync.BalanceTransactionRecorded,
            stripe_sync.StripeClockAdvanced,
            stripe_sync.StripeCommandFailed,
            stripe_accounts.StripeAccountChanged,
            stripe_accounts.StripeAccountDeauthorized,
            stripe_accounts.StripeCredentialRefused,
        ),
        purpose="What is true at Stripe, in the product's words.",
    ),
    Topic(
        name="stripe.found",
        producers=("stripe_sync",),
        consumers=("gateway",),
        events=(stripe_sync.StripeEventFound,),
        purpose="Stripe events that never arrived as webhooks, found in Stripe's own list.",
        retention_ms=35 * DAY_MS,
    ),
    Topic(
        name="stripe.statements",
        producers=("stripe_sync",),
        consumers=("ledger",),
        events=(stripe_sync.StripeStatement,),
        purpose="Statements of Stripe accounts, listed afresh, for reconciliation.",
        retention_ms=90 * DAY_MS,
    ),
    Topic(
        name="ledger.events",
        producers=("ledger",),
        consumers=("stripe_sync",),
        events=(
            ledger.StatementRequested,
            ledger.TellTransactionsAgain,
            ledger.BreakFound,
            ledger.BreakResolved,
            ledger.ReconciliationCompleted,
            ledger_holds.AccountOverrun,
            ledger_periods.PeriodClosed,
            ledger_periods.PeriodReopened,
            ledger.LedgerHeadAnchored,
        ),
        purpose="What the ledger asks and finds: statements, breaks, overruns, closed months, heads of its chains.",
        retention_ms=90 * DAY_MS,
    ),
    Topic(
        name="ledger.commands",
        producers=("ledger",),
        consumers=("ledger",),
        events=(
            ledger.ReverseEntry,
            ledger.PostEntry,
            ledger.OpenAccount,
            ledger.RecognizeRevenue,
            ledger_holds.HoldAmount,
            ledger_holds.CaptureHold,
            ledger_holds.ReleaseHold,
            ledger_holds.BoundAccount,
            ledger_periods.ClosePeriod,
            ledger_periods.ReopenPeriod,
        ),
        purpose="What was booked on request or earned, so that books can be made of topics anew.",
    ),
    Topic(
        name="ledger.entries",
        producers=("ledger",),
        consumers=("reporting",),
        events=(ledger.JournalEntryPosted,),
        purpose="Every journal entry, as posted.",
    ),
    Topic(
        name="audit.events",
        producers=EVERYBODY,
        consumers=("tenants",),
        events=(
            audit.SecurityEventRaised,
            audit.ConfigurationChanged,
            audit.KeyUsed,
            audit.SecretsHeld,
            audit.AuditHeadAnchored,
        ),
        purpose="Security events, configuration changes, key use and signed heads of the audit log.",
    ),
)

TOPIC_OF: dict[type[Fact], Topic] = {event: topic for topic in TOPICS for event in topic.events}
EVENT_TYPES: dict[str, type[Fact]] = {event.__name__: event for event in TOPIC_OF}


def topics_consumed_by(service: str) -> tuple[Topic, ...]:
    """The topics a service reads, in the order of the record."""
    return tuple(topic for topic in TOPICS if service in topic.consumers)
