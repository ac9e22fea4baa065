"""Console: the pages that people see; a client of the public API like any other program.

Owns: nothing. No database, no Kafka; every figure on a page came from the API a moment before.
Consumes: nothing.
Produces: nothing.
Invariants: it acts with the rights of the person signed in and no others; only the tenants service
reads the session cookie, the console passes it on; a page loads nothing from elsewhere and runs no
inline script; amounts are whole minor units and never pass through a float.
"""
