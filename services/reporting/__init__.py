"""Reporting: read models for lists and plots, and what stands on Kafka.

Owns: revenue by month, invoices, payment attempts and subscriptions as reports show them; all of it
can be built anew from the topics.
Consumes: `ledger.entries` (JournalEntryPosted), `billing.events` (InvoiceFinalized, InvoicePaid,
SubscriptionChanged), `payments.events` (PaymentSucceeded, PaymentFailed), `tenants.directory`.
Produces: nothing but security events on `audit.events`.
Invariants: a fact counts once, however often and in whichever order it is told; revenue is what the
ledger booked, so a report and the books never differ; a tenant's members see what they bill their
own customers, never the platform's book.
"""
