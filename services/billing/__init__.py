"""Billing: what is sold, who bought it, what it costs, and the invoices that say so.

Owns: plans and their versions, customers, subscriptions, usage charges, invoices, credits,
what is prepaid.
Consumes: `tenants.events` (TenantCreated, TenantWentLive), `metering.events` (MeterCreated,
PeriodUsage), `payments.events` (StripeCustomerLinked, StripeSubscriptionChanged, StripeInvoiceChanged,
StripeCommandFailed).
Produces: CustomerCreated, CustomerErased, PlanPublished, SubscriptionChanged, UsagePeriodClosed,
InvoiceFinalized, InvoiceCredited, InvoiceVoided, InvoiceWrittenOff, InvoiceRecovered, InvoicePaid,
CreditGranted, CreditExpired and CreditLimitSet on `billing.events`; CompleteInvoice and NameCustomer on
`stripe.commands`.
Invariants: a published plan version never changes; a customer has at most one subscription; a
subscription has one invoice per reason and period; each moment of a Stripe subscription that a customer
follows is closed once, however its period ended, and what it was used comes on one invoice; a line's amount follows from its explanation;
the lines of a final invoice add up to Stripe's total and never change; credit is used once and
never below zero, and what a voided invoice used is given back once;
what is prepaid never bounds use that only grows by more than the credit of then pays for, save lines that
Stripe adds to an invoice before billing has seen them; the flat fee is Stripe's own line and is never added by billing.
"""
