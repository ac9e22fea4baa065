"""Stripe sync: the only speaker of Stripe's dialect; what is true at Stripe, in our own words.

Owns: the mirror of Stripe's objects, payments, balance transactions, links of customers, commands to
Stripe and their outcome, advances of test clocks.
Consumes: `StripeEventReceived`, `PlanPublished`, `CustomerErased`, `CompleteInvoice`,
`ClockAdvanceRequested`.
Produces: `payments.events`.
Invariants: a webhook only says that an object changed; state always comes from the latest object,
fetched outside any transaction, so that any order, duplicate or replay leads to the same mirror and
the same facts; the mirror holds nothing of people. A fact leaves in the transaction that changed
the mirror, and only where something changed. Every call with an effect has a deterministic
idempotency key and a row that says whether it was made, so that replaying a topic calls nothing.
"""
