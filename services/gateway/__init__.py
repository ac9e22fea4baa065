"""Gateway: the door Stripe knocks at; it loses nothing and believes nothing unsigned.

Owns: the archive of webhook events (raw bytes and headers), the ids already taken, quarantine,
replays.
Consumes: `tenants.directory`, `tenants.secrets`, `billing.events` (CustomerErased), `stripe.found`.
Produces: `StripeEventReceived`, `WebhookReplayCanceled` on `stripe.events`; security events, replays,
assignments and the use of webhook secrets on `audit.events`.
Invariants: an event is durable before Stripe is answered 2xx; the same (account, mode, event id) is
published once, and again only by a stored replay; what is archived never changes, but for a person
who is erased; Kafka may be down and Stripe does not notice until the spool is full; nothing is read
from a body before its signature is verified on the raw bytes; an event is of the account that its
secret and URL stand for, whatever its body says.
"""
