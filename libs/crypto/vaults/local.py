"""Master keys in this process: from a variable, or from a file that is read again when it changes."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import structlog

from libs.crypto.errors import KeyringError
from libs.crypto.keyring import Keyring

log = structlog.get_logger()

FILE_BYTES_MAX = 64 * 1024


class LocalMasterKeys:
    """The local keyring behind the protocol of all providers."""

    def __init__(self, keyring: Callable[[], Keyring]) -> None:
        self._keyring = keyring

    async def newest_id(self) -> str:
        """The id of the first key."""
        return self._keyring().current_id

    async def wrap(self, key: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.wrap`."""
        return self._keyring().wrap(key, tenant_id=tenant_id, data_key_id=data_key_id)

    async def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.unwrap`."""
        return self._keyring().unwrap(wrapped, tenant_id=tenant_id, data_key_id=data_key_id)

    async def rewrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        """See `MasterKeys.rewrap`."""
        keyring = self._keyring()
        key = keyring.unwrap(wrapped, tenant_id=tenant_id, data_key_id=data_key_id)
        return keyring.wrap(key, tenant_id=tenant_id, data_key_id=data_key_id)


class KeyringFile:
    """A keyring in a file of mode 0600; a running process sees a new key without a restart.

    A change that is no keyring is told and not followed: what was read before goes on to hold.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _fingerprint(path)
        self._keyring = read_keyring(path)

    def __call__(self) -> Keyring:
        """The keyring as the file holds it now."""
        try:
            seen = _fingerprint(self._path)
            if seen != self._seen:
                self._keyring = read_keyring(self._path)
                self._seen = seen
                log.info("master_keys_read_again", current_id=self._keyring.current_id)
        except KeyringError as error:
            log.error("master_keys_file_unusable", reason=str(error))  # noqa: TRY400 - no trace
        return self._keyring


def read_keyring(path: Path) -> Keyring:
    """The keyring that a file holds.

    Raises:
        KeyringError: no such file, others may read it, or it holds no keyring.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & 0o077:
                raise KeyringError("the file of master keys must be a file of mode 0600")
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise KeyringError(f"the file of master keys is over {FILE_BYTES_MAX} bytes")
        return Keyring.parse(text.decode("ascii"))
    except OSError as error:
        raise KeyringError(f"the file of master keys: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeyringError("the file of master keys is not plain text") from None


def _fingerprint(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise KeyringError(f"the file of master keys: {error.strerror}") from None
    return found.st_ino, found.st_mtime_ns, found.st_size
