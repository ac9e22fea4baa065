"""Where secrets of tenants are kept: sealed in our own database, or in a secret store outside.

One small protocol, `SecretStore`. With our own database there is no store: the sealed value itself
stands in the row. A store's module is imported only where that store is configured.
"""
