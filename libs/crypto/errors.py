"""What can be wrong with a key or a sealed value. No message holds key material or plaintext."""


class SealedValueError(Exception):
    """A sealed value or wrapped key cannot be opened; whatever the bytes, nothing else is raised."""


class MalformedSealedValueError(SealedValueError):
    """The bytes are not a sealed value or wrapped key of a known format."""


class TamperedSealedValueError(SealedValueError):
    """The bytes were changed, or belong to another tenant, table, field, row or key."""


class UnknownMasterKeyError(SealedValueError):
    """The keyring has no master key of the id that the value names."""


class DataKeyExhaustedError(Exception):
    """The data key has sealed as many values as it may; make a new one."""


class KeyringError(Exception):
    """`SLUICE_MASTER_KEYS` is missing or malformed."""
