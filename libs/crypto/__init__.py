"""Sealed values, API keys and assertions. Primitives come from `cryptography`; formats are ours."""
