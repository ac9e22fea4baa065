"""Every metric of Sluice, in one place: a name is spelt once and says what it counts and its unit.

No label ever names a tenant, a customer or an id: the number of series stays bounded. What is per
tenant is in Postgres and the console. The scraper adds the service (`job`) to each series.
"""

from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

# The `_created` series double the number of series and tell nothing the scraper does not know.
disable_created_metrics()  # type: ignore[no-untyped-call]

EXPOSITION_MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_FAST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

# Outbox: what is committed but not yet on Kafka

OUTBOX_UNSENT_RECORDS = Gauge(
    "sluice_outbox_unsent_records", "Rows of the outbox that the relay has not sent yet."
)
OUTBOX_OLDEST_AGE_SECONDS = Gauge(
    "sluice_outbox_oldest_age_seconds", "Age of the oldest unsent row; 0 when there is none."
)
OUTBOX_SENT_TOTAL = Counter(
    "sluice_outbox_sent_total", "Records sent to Kafka and confirmed by all replicas.", ["topic"]
)
RELAY_ERRORS_TOTAL = Counter(
    "sluice_relay_errors_total",
    "Failed attempts of the relay, by the class of the error.",
    ["error"],
)

# Consumers

RECORDS_CONSUMED_TOTAL = Counter(
    "sluice_records_consumed_total", "Records whose effects are committed.", ["topic"]
)
RECORDS_DUPLICATE_TOTAL = Counter(
    "sluice_records_duplicate_total", "Records dropped because their effect was there.", ["topic"]
)
CONSUMER_LAG_RECORDS = Gauge(
    "sluice_consumer_lag_records", "End offset minus fence, over the partitions held.", ["topic"]
)
HANDLER_SECONDS = Histogram(
    "sluice_handler_seconds",
    "Time one event's handler took, without the commit.",
    ["event_type"],
    buckets=_FAST_SECONDS,
)
BATCH_SECONDS = Histogram(
    "sluice_batch_seconds", "Time one delivered batch took to its commit.", buckets=_SLOW_SECONDS
)
TRANSIENT_FAILURES_TOTAL = Counter(
    "sluice_transient_failures_total",
    "Batches rolled back to be tried again, by the class of the error.",
    ["error"],
)
PARKED_RECORDS = Gauge(
    "sluice_parked_records", "Records that wait in Postgres behind one that failed."
)
DEAD_LETTER_RECORDS_TOTAL = Counter(
    "sluice_dead_letter_records_total", "Records put aside as undeliverable.", ["topic"]
)
CONSUMER_STOPPED = Gauge(
    "sluice_consumer_stopped",
    "1 while a consumer stands still and waits for an operator.",
    ["consumer"],
)
FENCE_REFUSED = Gauge(
    "sluice_fence_refused",
    "1 while a partition is not read because its log does not match the fence.",
    ["topic", "partition"],
)
STREAM_GAP_RECORDS_TOTAL = Counter(
    "sluice_stream_gap_records_total", "Missing stream_seq values; must stay 0.", ["topic"]
)

# HTTP

HTTP_REQUESTS_TOTAL = Counter(
    "sluice_http_requests_total",
    "Requests answered; `route` is the template, never the path.",
    ["method", "route", "status"],
)
HTTP_REQUEST_SECONDS = Histogram(
    "sluice_http_request_seconds",
    "Time from the first byte in to the last byte out.",
    ["method", "route"],
    buckets=_FAST_SECONDS,
)

# Security

SECURITY_EVENTS_TOTAL = Counter(
    "sluice_security_events_total", "Requests refused for who asked, by kind.", ["kind", "severity"]
)
KEY_ROTATION_OLDEST_AGE_SECONDS = Gauge(
    "sluice_key_rotation_oldest_age_seconds",
    "How long the oldest rotation of sealing keys that is not done has been under way; 0: none is.",
    ["kind"],
)

# Webhooks, Stripe

WEBHOOKS_RECEIVED_TOTAL = Counter(
    "sluice_webhooks_received_total",
    "Webhook requests by outcome: stored, duplicate, quarantined, limited, refused, unavailable.",
    ["outcome"],
)
WEBHOOKS_QUARANTINED = Gauge(
    "sluice_webhooks_quarantined_records",
    "Verified webhooks kept aside, by reason; those of an unknown account after five minutes.",
    ["reason"],
)
STRIPE_REQUESTS_TOTAL = Counter(
    "sluice_stripe_requests_total",
    "Calls to Stripe, by operation and outcome.",
    ["operation", "outcome"],
)
STRIPE_REQUEST_SECONDS = Histogram(
    "sluice_stripe_request_seconds",
    "Time one call to Stripe took.",
    ["operation"],
    buckets=_SLOW_SECONDS,
)
STRIPE_WAITING_CALLS = Gauge(
    "sluice_stripe_waiting_calls",
    "Calls to Stripe that wait for their turn; `user` are those somebody waits for.",
    ["lane"],
)
STRIPE_READS_TOTAL = Counter(
    "sluice_stripe_reads_total",
    "Reads sent to Stripe, which allots them per month by the number of transactions.",
    ["lane"],
)
STRIPE_EVENTS_HEALED_TOTAL = Counter(
    "sluice_stripe_events_healed_total",
    "Events that never arrived as webhooks and were found in Stripe's list.",
)
STRIPE_UNDELIVERED_EVENTS = Gauge(
    "sluice_stripe_undelivered_events",
    "Recent events that Stripe could not deliver here, over all accounts, as of the last look.",
)
PAYMENT_REQUESTS_OLDEST_AGE_SECONDS = Gauge(
    "sluice_payment_requests_oldest_age_seconds",
    "How long the oldest request that moves money has waited for its outcome; 0: none does.",
)
STRIPE_MIRROR_DIFFERENCES_TOTAL = Counter(
    "sluice_stripe_mirror_differences_total",
    "Objects that a sweep found to differ from the mirror and had fetched again.",
    ["object_type"],
)
STRIPE_OBJECTS_UNREADABLE_TOTAL = Counter(
    "sluice_stripe_objects_unreadable_total",
    "Objects that were left aside since they are not as Stripe's API version has them.",
    ["object_type"],
)

# Money and usage

USAGE_EVENTS_TOTAL = Counter(
    "sluice_usage_events_total",
    "Usage events by verdict: accepted, duplicate, rejected.",
    ["verdict"],
)
USAGE_CONFLICTS_TOTAL = Counter(
    "sluice_usage_conflicts_total",
    "Events that came under an id of another content; the first content was counted.",
)
USAGE_ARCHIVE_AGE_SECONDS = Gauge(
    "sluice_usage_archive_age_seconds",
    "Age of the oldest usage that is on the topic and not in the archive.",
)
USAGE_ARCHIVE_LOST_RECORDS = Gauge(
    "sluice_usage_archive_lost_records",
    "Records of usage.events that the topic deleted before they were archived.",
)
USAGE_REBUILD_DIFFERENCES = Gauge(
    "sluice_usage_rebuild_differences",
    "Rows in which the last rebuild of a tenant's aggregates and the live ones differ.",
)
PAYMENTS_TOTAL = Counter(
    "sluice_payments_total",
    "Payments that came to an end, by outcome and mode.",
    ["outcome", "mode"],
)
PAYOUTS_FAILED_TOTAL = Counter(
    "sluice_payouts_failed_total",
    "Payouts that a bank sent back or Stripe could not make.",
    ["mode"],
)
LEDGER_REBUILD_DIFFERENCES = Gauge(
    "sluice_ledger_rebuild_differences",
    "Rows in which the last rebuilds of all books and the live ones differ, and faults of either.",
)
LEDGER_SUSPENSE_ENTRIES_TOTAL = Counter(
    "sluice_ledger_suspense_entries_total",
    "Movements booked to suspense because no rule knows their kind (Stripe's word).",
    ["kind"],
)
LEDGER_ACCOUNT_OVERRUNS_TOTAL = Counter(
    "sluice_ledger_account_overruns_total",
    "Accounts that facts took beyond their minimum or maximum, or below what is held of them.",
    ["bound"],
)
LEDGER_COMMIT_ENTRIES = Histogram(
    "sluice_ledger_commit_entries",
    "Entries of the posting API that went together in one commit.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
LEDGER_OPEN_BREAKS = Gauge(
    "sluice_ledger_open_breaks",
    "Differences between Stripe and the books that nobody has dealt with, by kind.",
    ["kind"],
)
LEDGER_BREAK_OLDEST_AGE_SECONDS = Gauge(
    "sluice_ledger_break_oldest_age_seconds",
    "How long ago the oldest of them was found; 0: there is none.",
)
LEDGER_RECONCILIATION_AGE_SECONDS = Gauge(
    "sluice_ledger_reconciliation_age_seconds",
    "How long ago the account was compared with the books that was not for the longest.",
)
LEDGER_UNCLEARED_OLDEST_AGE_SECONDS = Gauge(
    "sluice_ledger_uncleared_oldest_age_seconds",
    "How long the oldest money has stood on the clearing accounts and in suspense, as last compared.",
    ["account"],
)
JOB_RUNS_TOTAL = Counter(
    "sluice_job_runs_total", "Runs of timed jobs by outcome.", ["job", "outcome"]
)
JOB_ITEMS_FAILED_TOTAL = Counter(
    "sluice_job_items_failed_total",
    "Items that a timed job could not do; the others had their turn, and these have theirs again.",
    ["job"],
)
PLANNED_USAGE_DECIDED_TOTAL = Counter(
    "sluice_planned_usage_decided_total",
    "Occurrences of planned usage that were decided when they were due, each time they were.",
    ["outcome"],
)
JOB_SECONDS = Histogram(
    "sluice_job_seconds", "Time one run of a job took.", ["job"], buckets=_SLOW_SECONDS
)


def exposition() -> bytes:
    """All metrics in Prometheus's text format."""
    return generate_latest(REGISTRY)
