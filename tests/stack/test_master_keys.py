"""The laptop's file of master keys: made once, never lost, rotated in place."""

import base64
import stat
from pathlib import Path

import pytest

from deploy.local.env_file import EnvFile
from deploy.local.environment import settle
from deploy.local.errors import StackError
from deploy.local.master_keys import add_master_key, keep_master_keys, keep_only
from deploy.local.ports import scratch_port
from libs.crypto.vaults.local import read_keyring


def text(key_id: str, key: bytes) -> str:
    return f"{key_id}:{base64.b64encode(key).decode()}"


def test_it_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "master-keys"
    keep_master_keys(path, None)
    made = read_keyring(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keep_master_keys(path, None)
    assert read_keyring(path) == made


def test_keys_of_the_variable_are_taken_over_and_none_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "master-keys"
    keep_master_keys(path, text("k1", b"1" * 32))
    assert dict(read_keyring(path).keys) == {"k1": b"1" * 32}
    keep_master_keys(path, text("k2", b"2" * 32))
    assert dict(read_keyring(path).keys) == {"k2": b"2" * 32, "k1": b"1" * 32}


def test_a_new_key_comes_first_and_in_the_end_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "master-keys"
    keep_master_keys(path, text("k1", b"1" * 32))
    first, second = add_master_key(path), add_master_key(path)
    assert read_keyring(path).current_id == second != first
    assert keep_only(path, second) == [first, "k1"]
    assert list(read_keyring(path).keys) == [second]
    with pytest.raises(StackError, match="nothing was dropped"):
        keep_only(path, "k1")
    assert list(read_keyring(path).keys) == [second]


def test_a_broken_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "master-keys"
    path.touch(mode=0o600)
    path.write_text("nonsense")
    for attempt in (lambda: keep_master_keys(path, None), lambda: add_master_key(path)):
        with pytest.raises(StackError):
            attempt()
    assert path.read_text() == "nonsense"


def test_the_services_are_told_the_file_unless_the_user_gives_keys(tmp_path: Path) -> None:
    base, path = scratch_port(), tmp_path / "master-keys"
    values = settle(EnvFile(), {}, "admin-password", base, path).env.values
    assert values["SLUICE_MASTER_KEYS_FILE"] == str(path)
    assert "SLUICE_MASTER_KEYS" not in values
    given = {"SLUICE_MASTER_KEYS": text("mine", b"3" * 32)}
    values = settle(EnvFile(), given, "admin-password", base, path).env.values
    assert values["SLUICE_MASTER_KEYS"] == given["SLUICE_MASTER_KEYS"]
    assert "SLUICE_MASTER_KEYS_FILE" not in values
    given = {"SLUICE_MASTER_KEYS_FILE": "/elsewhere/keys"}
    values = settle(EnvFile(), given, "admin-password", base, path).env.values
    assert values["SLUICE_MASTER_KEYS_FILE"] == "/elsewhere/keys"
    assert "SLUICE_MASTER_KEYS" not in values
