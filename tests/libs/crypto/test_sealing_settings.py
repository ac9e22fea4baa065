"""The settings choose who holds keys and secrets, and say what is missing."""

import base64
from pathlib import Path
from typing import ClassVar

import pytest

from libs.crypto import settings as module
from libs.crypto.settings import SealingSettings
from libs.crypto.stores.aws import AwsSecrets
from libs.crypto.stores.gcp import GcpSecrets
from libs.crypto.stores.vault import VaultSecrets
from libs.crypto.vaults.aws import AwsMasterKeys
from libs.crypto.vaults.gcp import GcpMasterKeys
from libs.crypto.vaults.local import LocalMasterKeys
from libs.crypto.vaults.vault import VaultMasterKeys
from libs.settings import ConfigurationError, ServiceSettings, read

MASTER_KEYS = f"k1:{base64.b64encode(b'm' * 32).decode()}"
GCP_KEY = "projects/p/locations/global/keyRings/r/cryptoKeys/k"
VAULT = {"SLUICE_VAULT_ADDRESS": "https://vault:8200", "SLUICE_VAULT_TOKEN": "hvs.x"}


class Settings(SealingSettings, ServiceSettings):
    """A service that seals."""

    service: ClassVar[str] = "trial"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CONFIG", "/dev/null")
    monkeypatch.setenv("SLUICE_TRIAL_PORT", "1")
    monkeypatch.setenv("SLUICE_TRIAL_POSTGRES", "postgresql://x")
    monkeypatch.setenv("SLUICE_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("SLUICE_KEY_PEPPER", base64.b64encode(bytes(32)).decode())


def chosen(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return read(Settings)


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"SLUICE_MASTER_KEYS": MASTER_KEYS}, LocalMasterKeys),
        ({"SLUICE_MASTER_KEY_PROVIDER": "vault", **VAULT}, VaultMasterKeys),
        ({"SLUICE_MASTER_KEY_PROVIDER": "aws", "SLUICE_AWS_KMS_KEY": "alias/x"}, AwsMasterKeys),
        ({"SLUICE_MASTER_KEY_PROVIDER": "gcp", "SLUICE_GCP_KMS_KEY": GCP_KEY}, GcpMasterKeys),
    ],
)
def test_the_provider_is_the_one_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], kind: type
) -> None:
    found = chosen(monkeypatch, **variables)
    assert isinstance(found.sealing.data_keys.master_keys, kind)
    assert found.sealing is found.sealing
    assert found.sealing.store is None


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"SLUICE_SECRET_STORE": "vault", **VAULT}, VaultSecrets),
        ({"SLUICE_SECRET_STORE": "aws", "SLUICE_AWS_REGION": "eu-central-1"}, AwsSecrets),
        ({"SLUICE_SECRET_STORE": "gcp", "SLUICE_GCP_PROJECT": "p"}, GcpSecrets),
    ],
)
def test_the_store_is_the_one_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], kind: type
) -> None:
    found = chosen(monkeypatch, SLUICE_MASTER_KEYS=MASTER_KEYS, **variables)
    assert isinstance(found.sealing.store, kind)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "set SLUICE_MASTER_KEYS or SLUICE_MASTER_KEYS_FILE"),
        ({"SLUICE_MASTER_KEYS": "k1:secret-canary"}, "SLUICE_MASTER_KEYS"),
        ({"SLUICE_MASTER_KEYS_FILE": "/nowhere"}, "SLUICE_MASTER_KEYS_FILE"),
        ({"SLUICE_MASTER_KEY_PROVIDER": "vault"}, "set SLUICE_VAULT_ADDRESS"),
        (
            {"SLUICE_MASTER_KEY_PROVIDER": "vault", "SLUICE_VAULT_ADDRESS": "https://v"},
            "set SLUICE_VAULT_TOKEN or SLUICE_VAULT_TOKEN_FILE",
        ),
        ({"SLUICE_MASTER_KEY_PROVIDER": "aws"}, "set SLUICE_AWS_KMS_KEY"),
        ({"SLUICE_MASTER_KEY_PROVIDER": "gcp"}, "set SLUICE_GCP_KMS_KEY"),
        (
            {"SLUICE_MASTER_KEY_PROVIDER": "gcp", "SLUICE_GCP_KMS_KEY": "../x"},
            "SLUICE_GCP_KMS_KEY",
        ),
        (
            {"SLUICE_MASTER_KEYS": MASTER_KEYS, "SLUICE_SECRET_STORE": "gcp"},
            "set SLUICE_GCP_PROJECT",
        ),
        ({"SLUICE_MASTER_KEY_PROVIDER": "plain"}, "SLUICE_MASTER_KEY_PROVIDER"),
    ],
)
def test_what_is_missing_is_said_and_nothing_secret_with_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        chosen(monkeypatch, **variables)
    assert sentence in str(refused.value)
    assert "canary" not in str(refused.value)


def test_keys_in_two_places_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_text(MASTER_KEYS)
    with pytest.raises(ConfigurationError, match="not both"):
        chosen(monkeypatch, SLUICE_MASTER_KEYS=MASTER_KEYS, SLUICE_MASTER_KEYS_FILE=str(file))


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="extra `vault`"):
        chosen(monkeypatch, SLUICE_MASTER_KEY_PROVIDER="vault", **VAULT)
