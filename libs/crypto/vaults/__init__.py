"""Who holds the master keys: this process, HashiCorp Vault or OpenBao, AWS KMS, or GCP KMS.

One small protocol, `MasterKeys`. A provider's module is imported only where that provider is
configured, and with it the provider's library (extras `vault`, `aws`, `gcp`).
"""
