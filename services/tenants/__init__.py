"""Tenants: who exists, who may do what, and the one record of both that everybody else reads.

Owns: tenants and their slugs, configuration, users and who they are at an identity provider, members,
teams, invitations, sessions, API keys and when they were used, Stripe connections and their sealed
secrets, data keys and their rotations, signing keys, the tenants' business clocks, and the audit log.
Consumes: `billing.events` (SubscriptionChanged), `payments.events` (StripeCustomerLinked,
StripeSubscriptionChanged, StripeClockAdvanced, StripeCommandFailed, StripeAccountChanged,
StripeAccountDeauthorized, StripeCredentialRefused), `audit.events`, `tenants.directory`.
Produces: TenantCreated, TenantStatusChanged, TenantWentLive and ClockAdvanceRequested on
`tenants.events`; TenantSnapshot on `tenants.directory`; TenantSecrets on `tenants.secrets`; security
events and configuration changes on `audit.events`.
Invariants: a slug belongs to one tenant for ever; a tenant that has owners keeps one; every change of a tenant's public record raises its
version and sends it whole, in the same commit; no secret is stored in the clear; a Stripe account
belongs to one tenant, and a key is kept only after Stripe has taken it; a business clock
never goes back; an audit entry never changes and its hash binds all before it; only this service
reads the session cookie.
"""
