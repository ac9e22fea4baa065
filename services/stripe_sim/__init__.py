"""Stripe sandbox: a stateful stand-in for Stripe for development, demonstration and tests.

Owns: accounts, keys, and every Stripe object created through it, in memory or in one SQLite file.
Consumes: Stripe's HTTP API as the official SDK speaks it, and clicks on its hosted pages.
Produces: signed webhooks, retried until they are accepted.
Invariants: one account never sees another's objects; a request's effects, its idempotency record
and its events are committed before it is answered; an account's balance equals the sum of the net
amounts of its balance transactions. It imports nothing of the rest of the repository.
"""
