"""Metering: usage events in, exact quantities out; never a price.

Owns: meters, the ids of counted events, aggregates by minute, corrections, backfills, closed periods and their
answers, limits of plans and credit and what was told of them, reservations, planned usage, conflicts,
forecasts, the archive of usage, who may put usage straight on the topic.
Consumes: `usage.events` (CloudEvents), `billing.events` (PlanPublished, SubscriptionChanged,
CreditLimitSet, UsagePeriodClosed).
Produces: usage and its voids on `usage.events`; MeterCreated, PeriodUsage, LimitThresholdCrossed and
LimitExceeded on `metering.events`.
Invariants: an answer 2xx means the events are on Kafka; (tenant, mode, source, id) counts once, in
the same transaction as its aggregates; any order, batching or duplication of the same events gives
the same aggregates; a void takes back exactly what its event added, whichever comes first; a rebuild
from archive or topic gives the same; quantities are exact decimals; a closed period is answered for
exactly its interval, and again with the next revision when late usage or a void changes it; what is
reserved weighs on a limit exactly once from the hold to the counted event; a threshold of a limit is
told once in a period, whatever came in how; what is planned is held at most once each time it is due.
"""
