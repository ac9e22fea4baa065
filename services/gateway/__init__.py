"""Gateway: the door Stripe knocks at; it loses nothing and believes nothing unsigned.

Owns: the archive of webhook events (raw bytes and headers), the ids already taken, quarantine.
Consumes: `tenants.directory`.
Produces: `StripeEventReceived` on `stripe.events`, security events on `audit.events`.
Invariants: an event is durable before Stripe is answered 2xx; the same (account, mode, event id) is
published once; Kafka may be down and Stripe does not notice; nothing is read from a body before its
signature is verified on the raw bytes.
"""
