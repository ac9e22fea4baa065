"""Settings of the services that seal and open: where master keys and secrets are held.

    class Settings(SealingSettings, ServiceSettings): …

Only tenants, gateway and stripe_sync read these. `settings.sealing` is what they name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, HttpUrl, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from libs.crypto.data_keys import DataKeys
from libs.crypto.errors import KeyringError
from libs.crypto.keyring import Keyring
from libs.crypto.stores.protocol import SecretStore
from libs.crypto.vaults.local import KeyringFile, LocalMasterKeys, read_keyring
from libs.crypto.vaults.protocol import MasterKeys

if TYPE_CHECKING:
    from libs.crypto.clients.aws import AwsClient
    from libs.crypto.clients.gcp import GcpClient
    from libs.crypto.clients.vault import VaultClient

MasterKeyProvider = Literal["local", "vault", "aws", "gcp"]
SecretStoreName = Literal["own", "vault", "aws", "gcp"]

LIBRARIES = {"vault": "hvac", "aws": "boto3", "gcp": "google.auth"}
"""What each choice needs installed: the extra of its name."""

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$"
_GCP_KEY = (
    r"^projects/[a-z0-9:.-]+/locations/[a-z0-9-]+/keyRings/[A-Za-z0-9_-]+"
    r"/cryptoKeys/[A-Za-z0-9_-]+$"
)


def _check_master_keys(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        try:
            Keyring.parse(value.get_secret_value())
        except KeyringError as error:
            raise ValueError(str(error)) from None
    return value


def _check_master_keys_file(value: Path | None) -> Path | None:
    if value is not None:
        try:
            read_keyring(value)
        except KeyringError as error:
            raise ValueError(str(error)) from None
    return value


def _missing(choice: str, data: Mapping[str, Any], *, for_keys: bool) -> str | None:
    """What a choice lacks, as a sentence that says what to set."""
    if not _is_installed(LIBRARIES.get(choice)):
        return f"install Sluice with the extra `{choice}`: {LIBRARIES[choice]} is not here"
    wanted: tuple[tuple[str, ...], ...] = {
        "local": (("master_keys", "master_keys_file"),),
        "vault": (("vault_address",), ("vault_token", "vault_token_file")),
        "aws": (("aws_kms_key",),) if for_keys else (),
        "gcp": (("gcp_kms_key",),) if for_keys else (("gcp_project",),),
    }.get(choice, ())
    for names in wanted:
        given = [name for name in names if data.get(name)]
        either = " or ".join(f"SLUICE_{name.upper()}" for name in names)
        if not given:
            return f"set {either}"
        if len(given) > 1:
            return f"set {either}, not both"
    return None


def _is_installed(library: str | None) -> bool:
    try:
        return library is None or find_spec(library) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


class SealingSettings(BaseSettings):
    """Who holds the master keys and the secrets, and how to reach them."""

    master_keys: Annotated[SecretStr | None, AfterValidator(_check_master_keys)] = Field(
        default=None,
        validation_alias="SLUICE_MASTER_KEYS",
        description="id:base64key[;id:base64key…], the first is current",
    )
    master_keys_file: Annotated[Path | None, AfterValidator(_check_master_keys_file)] = Field(
        default=None,
        validation_alias="SLUICE_MASTER_KEYS_FILE",
        description="a file of mode 0600 with the same, one key per line; read again when it changes",
    )
    vault_address: HttpUrl | None = Field(
        default=None,
        validation_alias="SLUICE_VAULT_ADDRESS",
        description="HashiCorp Vault or OpenBao, https://…:8200",
    )
    vault_token: SecretStr | None = Field(
        default=None, validation_alias="SLUICE_VAULT_TOKEN", description="a token of Vault"
    )
    vault_token_file: Path | None = Field(
        default=None,
        validation_alias="SLUICE_VAULT_TOKEN_FILE",
        description="a file with the token, as Vault's agent keeps it fresh; read at every call",
    )
    vault_namespace: str | None = Field(
        default=None, validation_alias="SLUICE_VAULT_NAMESPACE", max_length=200
    )
    vault_transit_mount: str = Field(
        default="transit", validation_alias="SLUICE_VAULT_TRANSIT_MOUNT", pattern=_NAME
    )
    vault_transit_key: str = Field(
        default="sluice",
        validation_alias="SLUICE_VAULT_TRANSIT_KEY",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="the transit key, made with `derived=true`",
    )
    vault_kv_mount: str = Field(
        default="secret", validation_alias="SLUICE_VAULT_KV_MOUNT", pattern=_NAME
    )
    aws_region: str | None = Field(
        default=None, validation_alias="SLUICE_AWS_REGION", pattern=r"^[a-z0-9-]{1,32}$"
    )
    aws_endpoint: HttpUrl | None = Field(
        default=None,
        validation_alias="SLUICE_AWS_ENDPOINT",
        description="another address of AWS's API (VPC endpoint, test server)",
    )
    aws_kms_key: str | None = Field(
        default=None,
        validation_alias="SLUICE_AWS_KMS_KEY",
        pattern=r"^[A-Za-z0-9:/_-]{1,200}$",
        description="id, ARN or alias of the symmetric KMS key",
    )
    gcp_project: str | None = Field(
        default=None, validation_alias="SLUICE_GCP_PROJECT", pattern=r"^[a-z0-9:.-]{1,64}$"
    )
    gcp_kms_key: str | None = Field(
        default=None,
        validation_alias="SLUICE_GCP_KMS_KEY",
        pattern=_GCP_KEY,
        description="projects/…/locations/…/keyRings/…/cryptoKeys/…",
    )
    gcp_kms_base: HttpUrl = Field(
        default=HttpUrl("https://cloudkms.googleapis.com"), validation_alias="SLUICE_GCP_KMS_BASE"
    )
    gcp_secrets_base: HttpUrl = Field(
        default=HttpUrl("https://secretmanager.googleapis.com"),
        validation_alias="SLUICE_GCP_SECRETS_BASE",
    )
    gcp_credentials: Literal["default", "anonymous"] = Field(
        default="default",
        validation_alias="SLUICE_GCP_CREDENTIALS",
        description="`default` finds them as every Google library does; `anonymous` is for tests",
    )
    secrets_prefix: str = Field(
        default="sluice",
        validation_alias="SLUICE_SECRETS_PREFIX",
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="what the names of our secrets in an outside store begin with",
    )
    master_key_provider: MasterKeyProvider = Field(
        default="local",
        validation_alias="SLUICE_MASTER_KEY_PROVIDER",
        description="who holds the master keys: local, vault, aws or gcp",
    )
    secret_store: SecretStoreName = Field(
        default="own",
        validation_alias="SLUICE_SECRET_STORE",
        description="where tenants' secrets are kept: own (sealed, with us), vault, aws or gcp",
    )

    @field_validator("master_key_provider", "secret_store")
    @classmethod
    def _check_complete(cls, value: str, info: ValidationInfo) -> str:
        """What the choice needs is there; the sentence names the variable that is not."""
        for_keys = info.field_name == "master_key_provider"
        data = info.data
        if not {"master_keys", "master_keys_file"} <= data.keys():
            return value  # what is wrong with them is told already
        missing = _missing(value, data, for_keys=for_keys)
        if missing is not None:
            raise ValueError(missing)
        return value

    @cached_property
    def sealing(self) -> "Sealing":
        """What the settings name; made once, for data keys in memory are shared."""
        return Sealing(DataKeys(master_keys_of(self)), secret_store_of(self))


@dataclass(frozen=True)
class Sealing:
    """What a process seals and opens with.

    Attributes:
        store: None: secrets stand sealed in our own database.
    """

    data_keys: DataKeys
    store: SecretStore | None = None


def master_keys_of(settings: SealingSettings) -> MasterKeys:
    """The holder of master keys that the settings name; nothing is called yet."""
    match settings.master_key_provider:
        case "vault":
            from libs.crypto.vaults.vault import VaultMasterKeys  # noqa: PLC0415 (its extra)

            return VaultMasterKeys(
                _vault(settings),
                mount=settings.vault_transit_mount,
                key=settings.vault_transit_key,
            )
        case "aws":
            from libs.crypto.vaults.aws import AwsMasterKeys  # noqa: PLC0415 (its extra)

            assert settings.aws_kms_key is not None, "the settings were checked"
            return AwsMasterKeys(_aws(settings, "kms"), key=settings.aws_kms_key)
        case "gcp":
            from libs.crypto.vaults.gcp import GcpMasterKeys  # noqa: PLC0415 (its extra)

            assert settings.gcp_kms_key is not None, "the settings were checked"
            return GcpMasterKeys(_gcp(settings, settings.gcp_kms_base), key=settings.gcp_kms_key)
        case "local":
            return _local(settings)


def secret_store_of(settings: SealingSettings) -> SecretStore | None:
    """The store that the settings name; None: our own database. Nothing is called yet."""
    prefix = settings.secrets_prefix
    match settings.secret_store:
        case "vault":
            from libs.crypto.stores.vault import VaultSecrets  # noqa: PLC0415 (its extra)

            return VaultSecrets(_vault(settings), mount=settings.vault_kv_mount, prefix=prefix)
        case "aws":
            from libs.crypto.stores.aws import AwsSecrets  # noqa: PLC0415 (its extra)

            return AwsSecrets(_aws(settings, "secretsmanager"), prefix=prefix)
        case "gcp":
            from libs.crypto.stores.gcp import GcpSecrets  # noqa: PLC0415 (its extra)

            assert settings.gcp_project is not None, "the settings were checked"
            client = _gcp(settings, settings.gcp_secrets_base)
            return GcpSecrets(client, project=settings.gcp_project, prefix=prefix)
        case "own":
            return None


def _local(settings: SealingSettings) -> MasterKeys:
    if settings.master_keys_file is not None:
        return LocalMasterKeys(KeyringFile(settings.master_keys_file))
    assert settings.master_keys is not None, "the settings were checked"
    keyring = Keyring.parse(settings.master_keys.get_secret_value())
    return LocalMasterKeys(lambda: keyring)


def _vault(settings: SealingSettings) -> "VaultClient":
    from libs.crypto.clients.vault import VaultClient, VaultLogin  # noqa: PLC0415 (its extra)

    token = settings.vault_token.get_secret_value() if settings.vault_token else None
    return VaultClient(
        VaultLogin.of(
            str(settings.vault_address),
            token=token,
            token_file=settings.vault_token_file,
            namespace=settings.vault_namespace,
        )
    )


def _aws(settings: SealingSettings, service: str) -> "AwsClient":
    from libs.crypto.clients.aws import AwsClient  # noqa: PLC0415 (its extra)

    endpoint = str(settings.aws_endpoint) if settings.aws_endpoint else None
    return AwsClient(service, region=settings.aws_region, endpoint=endpoint)


def _gcp(settings: SealingSettings, base: HttpUrl) -> "GcpClient":
    from libs.crypto.clients.gcp import GcpClient  # noqa: PLC0415 (its extra)

    return GcpClient(str(base), anonymous=settings.gcp_credentials == "anonymous")
