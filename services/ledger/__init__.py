"""The ledger: every fact about money, booked once, in double entry, for ever.

Owns: two books per tenant and mode. `platform` holds what the platform bills and collects from the
tenant, `tenant` what the tenant bills and collects from its own customers. Accounts, journal
entries, postings, balances, a chain of hashes over each book, reversals that wait for their entry,
accounts that books opened for themselves, what was said of entries that were asked for. Holds,
bounds of accounts, months that are closed and what came late.
Statements of Stripe accounts, as Stripe lists them; comparisons of these with the books, breaks and
what is decided about them. What was invoiced in advance, by line, and what of it is recognized, by
month. Runs that build books anew beside the live ones.
Consumes: `tenants.events` (TenantCreated, TenantWentLive), `billing.events` (InvoiceFinalized,
InvoiceCredited, InvoiceVoided, InvoiceWrittenOff, InvoiceRecovered, InvoicePaid, CreditGranted,
CreditExpired),
`payments.events` (PaymentSucceeded, OutsidePaymentRecorded, BalanceTransactionRecorded,
DisputeChanged, PayoutAllocated), `stripe.statements` (StripeStatement), `ledger.commands`
(ReverseEntry, PostEntry, OpenAccount, RecognizeRevenue, HoldAmount, CaptureHold, ReleaseHold, BoundAccount, ClosePeriod,
ReopenPeriod: its own, so that books made of topics anew hold what was booked on request or earned).
Produces: JournalEntryPosted on `ledger.entries`, those commands on `ledger.commands`,
StatementRequested, TellTransactionsAgain, BreakFound, BreakResolved, ReconciliationCompleted,
AccountOverrun, PeriodClosed, PeriodReopened and LedgerHeadAnchored on `ledger.events`,
ConfigurationChanged on `audit.events`.
Invariants, refused by the database otherwise: an entry's postings sum to zero in each currency, in
one tenant, mode and book; entries and postings never change; a source key is booked once; an entry
is reversed once; the postings of an account are numbered without holes, each with the balance after
it; a stored balance is the fold of its postings; each entry of a book carries the hash of the one
before it and of itself (`sluice ledger verify`); a difference is one break however often it is found.
What somebody asks for passes no bound of an account and takes nothing that is held, a fact does and is
told; what is held is the sum of the open holds; nothing is booked into a closed month.
A tenant's members never read the book `platform`. Whoever books a fact anew gives its entry the same
id (docs/adr/0018).
"""
