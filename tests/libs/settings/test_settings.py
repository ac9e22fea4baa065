"""Settings: from the environment, then the file; wrong ones say which variable to set."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from libs.settings import (
    VARIABLE_OF_FILE_KEY,
    ConfigurationError,
    ProcessSettings,
    ServiceSettings,
    StripeSettings,
    load,
    read,
)

ConfigFile = Callable[[str], None]
PEPPER = base64.b64encode(b"p" * 32).decode()
SECRET = "sk_test_never_to_be_shown"


class Settings(StripeSettings, ServiceSettings):
    service: ClassVar[str] = "stripe_sync"

    window_days: int = Field(default=35, ge=35)


class ConsoleSettings(ProcessSettings):
    service: ClassVar[str] = "console"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A complete environment in an empty folder; nothing of the surrounding one shows through."""
    fields = {**Settings.model_fields, **ConsoleSettings.model_fields}
    for field in fields.values():
        if isinstance(field.validation_alias, str):
            monkeypatch.delenv(field.validation_alias, raising=False)
    monkeypatch.delenv("SLUICE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLUICE_STRIPE_SYNC_POSTGRES", "postgresql://u:hidden@h/sluice")
    monkeypatch.setenv("SLUICE_STRIPE_SYNC_PORT", "8105")
    monkeypatch.setenv("SLUICE_KAFKA", "127.0.0.1:9092")
    monkeypatch.setenv("SLUICE_KEY_PEPPER", PEPPER)


@pytest.fixture
def config_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def write(text: str) -> None:
        path = tmp_path / "sluice.yaml"
        path.write_text(text)
        monkeypatch.setenv("SLUICE_CONFIG", str(path))

    return write


def problems_of(settings_class: type[ProcessSettings] = Settings):
    with pytest.raises(ConfigurationError) as caught:
        read(settings_class)
    return caught.value.problems


def test_a_service_reads_its_own_variables():
    settings = read(Settings)
    assert settings.port == 8105
    assert settings.host == "127.0.0.1"
    assert settings.postgres_dsn == "postgresql://u:hidden@h/sluice"
    assert settings.key_pepper_bytes == b"p" * 32
    assert settings.origin_url == "http://127.0.0.1:8080"
    assert settings.window_days == 35


def test_a_field_without_an_alias_is_named_after_service_and_field(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLUICE_STRIPE_SYNC_WINDOW_DAYS", "40")
    assert read(Settings).window_days == 40


def test_the_console_needs_neither_postgres_nor_kafka(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLUICE_CONSOLE_PORT", "8108")
    assert read(ConsoleSettings).port == 8108


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        read(Settings).port = 1


def test_no_secret_shows_in_settings_or_errors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STRIPE_SECRET_KEY", SECRET)
    assert SECRET not in repr(read(Settings))
    assert "hidden" not in repr(read(Settings))
    monkeypatch.setenv("SLUICE_KEY_PEPPER", SECRET)
    monkeypatch.setenv("SLUICE_STRIPE_SYNC_PORT", SECRET)
    assert SECRET not in " ".join(problems_of())


def test_every_missing_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch):
    for name in ("SLUICE_STRIPE_SYNC_POSTGRES", "SLUICE_STRIPE_SYNC_PORT", "SLUICE_KAFKA"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLUICE_KEY_PEPPER", "")
    text = " ".join(problems_of())
    for name in (
        "SLUICE_STRIPE_SYNC_POSTGRES",
        "SLUICE_STRIPE_SYNC_PORT",
        "SLUICE_KAFKA",
        "SLUICE_KEY_PEPPER",
    ):
        assert f"set {name} (" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICE_STRIPE_SYNC_PORT", "0"),
        ("SLUICE_STRIPE_SYNC_PORT", "http"),
        ("SLUICE_KEY_PEPPER", base64.b64encode(b"short").decode()),
        ("SLUICE_KEY_PEPPER", "not base64!"),
        ("SLUICE_ORIGIN", "localhost"),
        ("SLUICE_LOG_LEVEL", "loud"),
        ("SLUICE_STRIPE_SYNC_WINDOW_DAYS", "34"),
        ("SLUICE_STRIPE_CURRENCY", "dollars"),
        ("SLUICE_PLATFORM_FALLBACK", "always"),
    ],
)
def test_a_wrong_value_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    (problem,) = problems_of()
    assert problem.startswith(f"correct {name}")


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLUICE_STRIPE_API_BASE", "")
    assert read(Settings).stripe_api_base is None


def test_the_file_gives_what_the_environment_does_not(
    monkeypatch: pytest.MonkeyPatch, config_file: ConfigFile
):
    config_file(
        """
        billing:
          stripe: {enabled: false, secret_key: from_file, webhook_secret: whsec_file, currency: eur}
          tenant: {default_tenant_id: acme}
          platform_fallback: off
        """
    )
    monkeypatch.setenv("STRIPE_SECRET_KEY", "from_environment")
    settings = read(Settings)
    assert settings.stripe_enabled is False
    assert settings.stripe_secret_key.get_secret_value() == "from_environment"
    assert settings.stripe_webhook_secret.get_secret_value() == "whsec_file"
    assert settings.stripe_currency == "EUR"
    assert settings.default_tenant_id == "acme"
    assert settings.platform_fallback == "off"


def test_the_file_in_its_usual_place_is_found(tmp_path: Path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("billing: {platform_fallback: test}")
    assert read(Settings).platform_fallback == "test"


def test_the_example_file_is_valid_and_complete(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    example = request.config.rootpath / "config/config.example.yaml"
    monkeypatch.setenv("SLUICE_CONFIG", str(example))
    assert read(Settings).platform_fallback == "listed"
    text = example.read_text()
    for key, variable in VARIABLE_OF_FILE_KEY.items():
        assert f"{key.rpartition('.')[2]}:" in text
        assert f"({variable})" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"billing: {{strip: {SECRET}}}", "unknown key billing.strip"),
        (f"billing: {{stripe: {{secret_kye: {SECRET}}}}}", "billing.stripe.secret_kye"),
        (f"billing: [{SECRET}", "not valid YAML"),
        (f"- {SECRET}", "sluice.yaml"),
        (f"billing: {{stripe: {SECRET}}}", "billing.stripe"),
        ("billing: {platform_fallback: maybe}", "billing.platform_fallback"),
        ("x: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("a" * 1_100_000, "larger than"),
    ],
)
def test_a_wrong_file_is_told_without_its_values(config_file: ConfigFile, text: str, words: str):
    config_file(text)
    told = " ".join(problems_of())
    assert words in told
    assert SECRET not in told


def test_a_file_that_was_named_must_exist(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLUICE_CONFIG", "nowhere.yaml")
    assert "SLUICE_CONFIG" in problems_of()[0]


def test_the_file_is_checked_even_where_none_of_it_is_used(
    monkeypatch: pytest.MonkeyPatch, config_file: ConfigFile
):
    monkeypatch.setenv("SLUICE_CONSOLE_PORT", "8108")
    config_file("biling: {}")
    assert "unknown key biling" in problems_of(ConsoleSettings)[0]


def test_a_dot_env_file_in_the_folder_is_not_picked_up(tmp_path: Path):
    (tmp_path / ".env").write_text("STRIPE_SECRET_KEY=sk_test_stray\n")
    assert read(Settings).stripe_secret_key is None


def test_load_says_it_on_stderr_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("SLUICE_KAFKA")
    with pytest.raises(SystemExit) as exit_:
        load(Settings)
    assert exit_.value.code == 2
    assert "set SLUICE_KAFKA (bootstrap servers" in capsys.readouterr().err
