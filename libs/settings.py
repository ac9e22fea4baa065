"""How a service is configured: the environment first, then one YAML file, checked before it starts.

A service declares one frozen class:

    class Settings(ServiceSettings):
        service: ClassVar[str] = "metering"
        window_days: int = 35                      # SLUICE_METERING_WINDOW_DAYS
        archive: str = Field(validation_alias="SLUICE_ARCHIVE", default="…")

and calls `load(Settings)` once, in its composition root. A field without an alias is read from
`SLUICE_<SERVICE>_<FIELD>`. An empty variable counts as absent. The file is `config/config.yaml`, or
what `SLUICE_CONFIG` names; a variable wins over the file.
"""

import base64
import binascii
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    StringConstraints,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

DEFAULT_CONFIG_PATH = Path("config/config.yaml")
CONFIG_BYTES_MAX = 1024 * 1024
KEY_PEPPER_BYTES = 32

# Each key of the file and the variable that wins over it.
VARIABLE_OF_FILE_KEY: Mapping[str, str] = {
    "billing.stripe.enabled": "SLUICE_STRIPE_ENABLED",
    "billing.stripe.secret_key": "STRIPE_SECRET_KEY",
    "billing.stripe.webhook_secret": "STRIPE_WEBHOOK_SECRET",
    "billing.stripe.price_id": "SLUICE_STRIPE_PRICE_ID",
    "billing.stripe.currency": "SLUICE_STRIPE_CURRENCY",
    "billing.tenant.default_tenant_id": "SLUICE_DEFAULT_TENANT_ID",
    "billing.platform_fallback": "SLUICE_PLATFORM_FALLBACK",
    "billing.platform_fallback_tenants": "SLUICE_PLATFORM_FALLBACK_TENANTS",
}

LogLevel = Literal["debug", "info", "warning", "error"]
Port = Annotated[int, Field(ge=1, le=65535)]


class ConfigurationError(Exception):
    """The process cannot start as configured; `problems` are sentences that say what to set."""

    code = "configuration_invalid"

    def __init__(self, service: str, problems: Sequence[str]) -> None:
        self.service = service
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{service} cannot start ({self.code}):\n{lines}")


def _check_key_pepper(value: SecretStr) -> SecretStr:
    try:
        pepper = base64.b64decode(value.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None
    if len(pepper) != KEY_PEPPER_BYTES:
        raise ValueError(f"must be base64 of exactly {KEY_PEPPER_BYTES} bytes")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class _StripeSection(_Strict):
    enabled: bool | None = None
    secret_key: str | None = None
    webhook_secret: str | None = None
    price_id: str | None = None
    currency: str | None = None


class _TenantSection(_Strict):
    default_tenant_id: str | None = None


class _BillingSection(_Strict):
    stripe: _StripeSection = _StripeSection()
    tenant: _TenantSection = _TenantSection()
    # A bare `off` is a boolean in YAML 1.1.
    platform_fallback: Annotated[
        str | None, BeforeValidator(lambda value: "off" if value is False else value)
    ] = None
    platform_fallback_tenants: str | None = None


class _ConfigFile(_Strict):
    """The whole file: a key that is not here is a mistake worth telling, not a silent no-op."""

    billing: _BillingSection = _BillingSection()


def _file_values(config_path: str | None) -> dict[str, Any]:
    """The file's values by the variable that each stands for.

    Raises:
        ValueError: with a sentence that says what is wrong with the file; none of its values.
    """
    path = Path(config_path) if config_path else DEFAULT_CONFIG_PATH
    if not config_path and not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"the file {path} that SLUICE_CONFIG names: {error.strerror}") from None
    if len(text) > CONFIG_BYTES_MAX:
        raise ValueError(f"the file {path} is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        config = _ConfigFile.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError:
        # The parser's own message quotes the line, and the line may hold a secret.
        raise ValueError(f"the file {path} is not valid YAML") from None
    except ValidationError as error:
        raise ValueError("; ".join(_file_problem(path, part) for part in error.errors())) from None
    values = {variable: _value_at(config, key) for key, variable in VARIABLE_OF_FILE_KEY.items()}
    return {variable: value for variable, value in values.items() if value not in (None, "")}


def _file_problem(path: Path, error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = ", ".join(VARIABLE_OF_FILE_KEY)
        return f"the file {path} has the unknown key {key}; known keys are {known}"
    return f"the key {key} in the file {path}: {error['msg']}"


def _value_at(config: BaseModel, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


class _FileSource(PydanticBaseSettingsSource):
    """Gives a settings class those values of the file that it has a field for."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Required by the base; `__call__` answers for all fields at once."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = _file_values(os.environ.get("SLUICE_CONFIG"))
        wanted = {field.validation_alias for field in self.settings_cls.model_fields.values()}
        return {variable: value for variable, value in values.items() if variable in wanted}


class ProcessSettings(BaseSettings):
    """What every process that serves HTTP needs; the console needs no more."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        env_ignore_empty=True,
        populate_by_name=True,
        validate_default=True,
    )

    service: ClassVar[str]

    port: Port = Field(default=..., description="where the service listens")
    host: str = Field(
        default="127.0.0.1",
        validation_alias="SLUICE_HOST",
        description="the address to listen on; in a container 0.0.0.0",
    )
    origin: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8080"),
        validation_alias="SLUICE_ORIGIN",
        description="the address people and programs reach Sluice at",
    )
    log_level: LogLevel = Field(default="info", validation_alias="SLUICE_LOG_LEVEL")
    otlp_endpoint: HttpUrl | None = Field(
        default=None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="base address of an OTLP/HTTP collector; traces go to <base>/v1/traces",
    )
    trusted_proxies: str = Field(
        default="127.0.0.1,::1",
        validation_alias="SLUICE_TRUSTED_PROXIES",
        description="addresses of the proxies whose X-Forwarded-For is believed",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Read a field without an alias from `SLUICE_<SERVICE>_<FIELD>`."""
        super().__pydantic_init_subclass__(**kwargs)
        if "service" in cls.__dict__:
            cls.model_config["env_prefix"] = f"SLUICE_{cls.service.upper()}_"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the file; no `.env` in the current folder is ever picked up."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, _FileSource(settings_cls)

    @property
    def proxies(self) -> frozenset[str]:
        """The trusted proxies' addresses."""
        return frozenset(part.strip() for part in self.trusted_proxies.split(",") if part.strip())

    @property
    def origin_url(self) -> str:
        """The origin without a slash at its end, to put a path after."""
        return str(self.origin).rstrip("/")


class ServiceSettings(ProcessSettings):
    """What a service with a Postgres schema and Kafka consumers needs."""

    postgres: SecretStr = Field(
        default=..., description="DSN of the service's own role, postgresql://…"
    )
    kafka: str = Field(
        default=...,
        validation_alias="SLUICE_KAFKA",
        min_length=1,
        description="bootstrap servers, host:port[,host:port…]",
    )
    key_pepper: Annotated[SecretStr, AfterValidator(_check_key_pepper)] = Field(
        default=...,
        validation_alias="SLUICE_KEY_PEPPER",
        description="base64 of 32 random bytes, the same for every service",
    )

    @property
    def postgres_dsn(self) -> str:
        """The DSN with its password; for the pool only."""
        return self.postgres.get_secret_value()

    @property
    def key_pepper_bytes(self) -> bytes:
        """The pepper that API keys are hashed with."""
        return base64.b64decode(self.key_pepper.get_secret_value(), validate=True)


class StripeSettings(BaseSettings):
    """What the services that deal with Stripe add: `class Settings(StripeSettings, ServiceSettings)`.

    Only they read these, so that no other process holds the keys.
    """

    stripe_enabled: bool = Field(
        default=True,
        validation_alias="SLUICE_STRIPE_ENABLED",
        description="whether money moves through Stripe at all",
    )
    stripe_secret_key: SecretStr | None = Field(
        default=None,
        validation_alias="STRIPE_SECRET_KEY",
        description="the platform account's secret key, sk_test_… or sk_live_…",
    )
    stripe_webhook_secret: SecretStr | None = Field(
        default=None,
        validation_alias="STRIPE_WEBHOOK_SECRET",
        description="the signing secret of the platform's webhook endpoint, whsec_…",
    )
    stripe_price_id: str | None = Field(
        default=None,
        validation_alias="SLUICE_STRIPE_PRICE_ID",
        description="the Stripe price of a checkout that names no plan",
    )
    stripe_currency: Annotated[str, StringConstraints(to_upper=True, pattern=r"^[A-Za-z]{3}$")] = (
        Field(
            default="USD",
            validation_alias="SLUICE_STRIPE_CURRENCY",
            description="currency of a tenant that names none",
        )
    )
    stripe_api_base: HttpUrl | None = Field(
        default=None,
        validation_alias="SLUICE_STRIPE_API_BASE",
        description="base address of Stripe's API; empty for the real one",
    )
    default_tenant_id: str = Field(
        default="default",
        validation_alias="SLUICE_DEFAULT_TENANT_ID",
        description="slug or id of the tenant everything lives under with billing off",
    )
    platform_fallback: Literal["off", "listed", "test"] = Field(
        default="listed",
        validation_alias="SLUICE_PLATFORM_FALLBACK",
        description="which tenants without a connection use the platform's account",
    )
    platform_fallback_tenants: str = Field(
        default="",
        validation_alias="SLUICE_PLATFORM_FALLBACK_TENANTS",
        max_length=10_000,
        description="slugs or ids of the tenants that `listed` lists, with commas between",
    )
    stripe_client_id: str | None = Field(
        default=None,
        validation_alias="STRIPE_CLIENT_ID",
        pattern=r"^ca_[A-Za-z0-9_]{1,200}$",
        description="the platform's Connect client id, ca_…",
    )
    stripe_connect_base: HttpUrl | None = Field(
        default=None,
        validation_alias="SLUICE_STRIPE_CONNECT_BASE",
        description="where a browser finds Stripe's Connect pages; empty: beside the API",
    )
    stripe_webhook_base: HttpUrl | None = Field(
        default=None,
        validation_alias="SLUICE_STRIPE_WEBHOOK_BASE",
        description="the address Stripe reaches our webhooks at; empty: the origin",
    )

    @property
    def fallback_tenants(self) -> frozenset[str]:
        """Slugs and ids of the listed tenants, in lower case."""
        names = self.platform_fallback_tenants.split(",")
        return frozenset(name.strip().lower() for name in names if name.strip())


S = TypeVar("S", bound=ProcessSettings)


def read(settings_class: type[S]) -> S:
    """Read and check the settings of a service.

    Raises:
        ConfigurationError: with one sentence per variable or key that is missing or wrong.
    """
    try:
        return settings_class()
    except ValidationError as error:
        problems = [_problem(settings_class, part) for part in error.errors(include_input=False)]
        raise ConfigurationError(settings_class.service, problems) from None
    except ValueError as error:
        raise ConfigurationError(settings_class.service, [str(error)]) from None


def load(settings_class: type[S]) -> S:
    """Read the settings; where they are wrong, say so on stderr and exit with status 2."""
    try:
        return read(settings_class)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None


def _problem(settings_class: type[ProcessSettings], error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    for field_name, field in settings_class.model_fields.items():
        variable = _variable_of(settings_class, field_name, field)
        if name in (field_name, variable):
            meaning = f" ({field.description})" if field.description else ""
            if error["type"] == "missing":
                return f"set {variable}{meaning}: it is missing"
            sentence = str(error["msg"]).removeprefix("Value error, ")
            return f"correct {variable}{_or_file_key(variable)}{meaning}: {sentence}"
    return f"{name}: {error['msg']}"


def _variable_of(settings_class: type[ProcessSettings], field_name: str, field: FieldInfo) -> str:
    if isinstance(field.validation_alias, str):
        return field.validation_alias
    return f"{settings_class.model_config.get('env_prefix', '')}{field_name}".upper()


def _or_file_key(variable: str) -> str:
    for key, name in VARIABLE_OF_FILE_KEY.items():
        if name == variable:
            return f" or {key} in the configuration file"
    return ""
