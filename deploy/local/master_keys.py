"""The stack's file of master keys: one a line, the first is current, for its owner only."""

import base64
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.folders import write_atomically
from libs.crypto.errors import KeyringError
from libs.crypto.framing import KEY_BYTES
from libs.crypto.keyring import Keyring
from libs.crypto.vaults.local import read_keyring

HEADER = "# Master keys of this stack, the current one first: without them its secrets are lost.\n"
FIRST_ID = "k1"


def keep_master_keys(path: Path, last: str | None) -> None:
    """Have a file of master keys that opens all the stack's data.

    Args:
        last: the variable's value of the last run, from before there was a file or from a time when
            the user set it.

    Raises:
        StackError: the file is there and cannot be used.
    """
    known = dict(_read(path).keys) if path.exists() else {}
    keys = dict(Keyring.parse(last).keys) if last else {}
    keys |= {key_id: key for key_id, key in known.items() if key_id not in keys}
    if not keys:
        keys = {FIRST_ID: secrets.token_bytes(KEY_BYTES)}
    if keys != known:
        _write(path, keys)


def add_master_key(path: Path) -> str:
    """Put a fresh key first; running services use it from then on. Its id.

    Raises:
        StackError: the file cannot be used.
    """
    keys = _read(path).keys
    key_id = f"k{datetime.now(UTC):%Y%m%d%H%M%S}"
    if key_id in keys:
        key_id += secrets.token_hex(2)
    _write(path, {key_id: secrets.token_bytes(KEY_BYTES), **keys})
    return key_id


def keep_only(path: Path, key_id: str) -> list[str]:
    """Drop every other key: nothing is wrapped under them any more. Their ids.

    Raises:
        StackError: the file cannot be used, or does not hold the key.
    """
    keys = _read(path).keys
    if key_id not in keys:
        raise StackError(f"{path} does not hold the master key {key_id}; nothing was dropped.")
    _write(path, {key_id: keys[key_id]})
    return [old for old in keys if old != key_id]


def _read(path: Path) -> Keyring:
    try:
        return read_keyring(path)
    except KeyringError as error:
        raise StackError(f"{path}: {error}.") from None


def _write(path: Path, keys: Mapping[str, bytes]) -> None:
    lines = [f"{key_id}:{base64.b64encode(key).decode()}\n" for key_id, key in keys.items()]
    write_atomically(path, HEADER + "".join(lines))
