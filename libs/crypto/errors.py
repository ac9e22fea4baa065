"""What can be wrong with a key or a sealed value. No message holds key material or plaintext."""


class SealedValueError(Exception):
    """A sealed value or wrapped key cannot be opened; whatever the bytes, nothing else is raised."""


class MalformedSealedValueError(SealedValueError):
    """The bytes are not a sealed value or wrapped key of a known format."""


class TamperedSealedValueError(SealedValueError):
    """The bytes were changed, or belong to another tenant, table, field, row or key."""


class UnknownMasterKeyError(SealedValueError):
    """No master key held here has the id, or is of the provider, that the value names."""


class DestroyedKeyError(SealedValueError):
    """The data key was destroyed, and with it every value sealed under it."""


class SecretGoneError(SealedValueError):
    """The secret store has no secret under the reference."""


class DataKeyExhaustedError(Exception):
    """The data key has sealed as many values as it may; make a new one."""


class KeyringError(Exception):
    """`SLUICE_MASTER_KEYS`, or the file of master keys, is missing or malformed."""


class MasterKeyUnavailableError(ConnectionError):
    """The key service does not answer, or refuses us; nothing is sealed or opened without it."""


class MasterKeyMisusedError(MasterKeyUnavailableError):
    """The key service calls what we asked wrong: a mistake in its set-up or in ours.

    It says nothing of the value, which stays as it is until that is mended.
    """


class SecretStoreUnavailableError(ConnectionError):
    """The secret store does not answer, or refuses us."""
