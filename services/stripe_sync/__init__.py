"""Stripe sync: the only speaker of Stripe's dialect; what is true at Stripe, in our own words.

Owns: the mirror of Stripe's objects (the platform's account and those of tenants), payments, refunds,
disputes, payouts, balance transactions, links of customers, payment requests (intents, refunds) and
payment links, commands to Stripe and their outcome, advances of test clocks, the health of tenants'
accounts as Stripe tells it, whose money the platform's payouts were made of. How far each of Stripe's
lists was read.
Consumes: `StripeEventReceived`, `WebhookReplayCanceled`, `PlanPublished`, `CustomerCreated`,
`NameCustomer`, `CustomerErased`, `CompleteInvoice`, `ClockAdvanceRequested`, `StatementRequested`,
`TellTransactionsAgain`, `tenants.directory`, `tenants.secrets`.
Produces: `payments.events`; events that never arrived on `stripe.found`; `stripe.statements`; the use
of tenants' keys on `audit.events`.
Invariants: a webhook only says that an object changed; state always comes from the latest object,
fetched outside any transaction, so that any order, duplicate or replay leads to the same mirror and
the same facts; the mirror holds nothing of people. A fact leaves in the transaction that changed
the mirror, and only where something changed. Every call with an effect has a deterministic
idempotency key and a row that says whether it was made, so that replaying a topic calls nothing.
What moves money stands in a row before the call, is looked for before it is sent again, and is never
left open; of a payment never more is given back than is left.
What no webhook told is found in Stripe's lists; a list counts as read only when all of it was.
An object in a tenant's own account is that tenant's; its keys open nothing else, and are looked up
for every call.
"""
