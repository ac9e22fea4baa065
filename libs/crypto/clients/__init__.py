"""How Vault, AWS and GCP are reached: blocking clients in threads of their own, each call bounded."""
