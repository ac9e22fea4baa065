"""`.local/env`: what stands in it, who chose it, and what survives."""

import base64
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local.env_file import EnvFile, read_env, write_env
from deploy.local.environment import Settled, settle
from deploy.local.errors import StackError
from deploy.local.ports import scratch_port
from libs.crypto import apikeys

# The table of variables that tools and tests from outside rely on (design, fixed points).
FIXED = {
    *("SLUICE_ORIGIN", "SLUICE_PORTAL_ORIGIN", "SLUICE_KAFKA", "SLUICE_POSTGRES"),
    *("SLUICE_OPERATOR_KEY", "SLUICE_OPERATOR_EMAIL", "SLUICE_OPERATOR_PASSWORD"),
    *("STRIPE_SIM_URL", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"),
    *("SLUICE_GATEWAY_URL", "SLUICE_TENANTS_URL", "SLUICE_METERING_URL", "SLUICE_BILLING_URL"),
    *("SLUICE_STRIPE_SYNC_URL", "SLUICE_LEDGER_URL", "SLUICE_REPORTING_URL", "SLUICE_CONSOLE_URL"),
    *("SLUICE_KEY_PEPPER", "SLUICE_MASTER_KEYS", "SLUICE_STRIPE_API_BASE"),
}
SECRETS = (
    *("SLUICE_KEY_PEPPER", "SLUICE_MASTER_KEYS", "SLUICE_OPERATOR_KEY", "SLUICE_OPERATOR_PASSWORD"),
    *("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"),
)
OUTSIDE = "postgresql://me:pass@db.example:6432/billing?sslmode=require"


@pytest.fixture
def base() -> int:
    return scratch_port()


def choose(last: EnvFile, base: int, given: Mapping[str, str] | None = None) -> Settled:
    return settle(last, given or {}, "admin-password", port_base=base)


def again(settled: Settled, path: Path) -> EnvFile:
    """What the next run reads of what this one chose."""
    write_env(path, settled.env)
    return read_env(path)


def test_everything_that_others_rely_on_is_there(base: int) -> None:
    values = choose(EnvFile(), base).env.values
    assert values.keys() >= FIXED
    assert apikeys.parse(values["SLUICE_OPERATOR_KEY"]) is not None
    assert len(base64.b64decode(values["SLUICE_KEY_PEPPER"])) == 32
    assert values["STRIPE_SIM_URL"] == values["SLUICE_STRIPE_API_BASE"]
    assert urlsplit(values["SLUICE_STRIPE_SYNC_POSTGRES"]).username == "sluice_stripe_sync"
    assert values["SLUICE_PORTAL_ORIGIN"] == values["SLUICE_ORIGIN"].replace(
        "127.0.0.1", "localhost"
    )


def test_the_laptop_stack_has_its_known_ports_or_the_next_free_ones() -> None:
    values = settle(EnvFile(), {}, "admin-password").env.values
    assert 8080 <= int(values["SLUICE_ORIGIN_PORT"]) < 8280
    assert 8101 <= int(values["SLUICE_GATEWAY_PORT"]) < 8301
    assert values["SLUICE_ORIGIN"] == f"http://127.0.0.1:{values['SLUICE_ORIGIN_PORT']}"


def test_the_file_is_for_its_owner_only_also_when_it_was_open_before(
    base: int, tmp_path: Path
) -> None:
    path = tmp_path / "env"
    path.touch(mode=0o644)
    write_env(path, choose(EnvFile(), base).env)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["env"]


def test_every_line_is_plain_name_and_value(base: int, tmp_path: Path) -> None:
    path = tmp_path / "env"
    settled = choose(EnvFile(), base)
    write_env(path, settled.env)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert dict(line.split("=", 1) for line in lines) == settled.env.values


def test_awkward_values_survive_writing_and_reading(tmp_path: Path) -> None:
    values = {"A": "k2:a=;k1:b=", "B": "a b", "C": "it's", "D": "", "E": "$HOME`x`", "F": "p#q"}
    write_env(tmp_path / "env", EnvFile(values, frozenset({"A"})))
    assert read_env(tmp_path / "env") == EnvFile(values, frozenset({"A"}))


def test_secrets_and_ports_survive_a_restart(base: int, tmp_path: Path) -> None:
    first = choose(EnvFile(), base)
    assert choose(again(first, tmp_path / "env"), base).env == first.env


def test_two_stacks_share_no_secret(base: int) -> None:
    first, second = choose(EnvFile(), base).env.values, choose(EnvFile(), base).env.values
    assert all(first[name] != second[name] for name in SECRETS)


def test_a_shell_that_has_read_the_file_sets_nothing(base: int, tmp_path: Path) -> None:
    first = choose(EnvFile(), base)
    second = choose(again(first, tmp_path / "env"), base, first.env.values)
    assert second.env == first.env
    port = int(first.env.values["SLUICE_GATEWAY_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        third = choose(again(second, tmp_path / "env"), base, first.env.values)
    assert int(third.env.values["SLUICE_GATEWAY_PORT"]) != port


def test_a_postgres_of_the_users_replaces_ours_and_ours_comes_back(
    base: int, tmp_path: Path
) -> None:
    given = {"SLUICE_POSTGRES": OUTSIDE}
    first = choose(EnvFile(), base, given)
    assert not first.own_postgres
    assert first.env.values["SLUICE_POSTGRES"] == OUTSIDE
    ledger = urlsplit(first.env.values["SLUICE_LEDGER_POSTGRES"])
    assert (ledger.username, ledger.hostname, ledger.port) == ("sluice_ledger", "db.example", 6432)
    assert (ledger.path, ledger.query) == ("/billing", "sslmode=require")
    # Still the user's, although it is now equal to the file's.
    second = choose(again(first, tmp_path / "env"), base, given)
    assert not second.own_postgres
    third = choose(again(second, tmp_path / "env"), base)
    assert third.own_postgres
    assert ":admin-password@127.0.0.1:" in third.env.values["SLUICE_POSTGRES"]


def test_an_explicit_port_is_taken_and_given_back(base: int, tmp_path: Path) -> None:
    wanted = scratch_port()
    first = choose(EnvFile(), base, {"SLUICE_LEDGER_PORT": str(wanted)})
    assert first.env.values["SLUICE_LEDGER_URL"] == f"http://127.0.0.1:{wanted}"
    second = choose(again(first, tmp_path / "env"), base)
    assert second.env.values["SLUICE_LEDGER_PORT"] != str(wanted)


@pytest.mark.parametrize(
    "name",
    ["SLUICE_LEDGER_PORT", "SLUICE_KAFKA_PORT", "SLUICE_POSTGRES_PORT", "SLUICE_ORIGIN_PORT"],
)
def test_a_taken_explicit_port_stops_the_start(name: str, base: int) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(StackError, match=f"set by {name}, is already in use"),
    ):
        choose(EnvFile(), base, {name: str(server.getsockname()[1])})


@pytest.mark.parametrize("name", ["SLUICE_ORIGIN", "SLUICE_LEDGER_URL", "STRIPE_SIM_URL"])
def test_an_address_sets_its_port(name: str, base: int) -> None:
    wanted = scratch_port()
    values = choose(EnvFile(), base, {name: f"http://127.0.0.1:{wanted}"}).env.values
    assert values[name] == f"http://127.0.0.1:{wanted}"
    assert str(wanted) in {value for key, value in values.items() if key.endswith("_PORT")}


def test_a_public_origin_keeps_a_port_behind_it(base: int) -> None:
    values = choose(EnvFile(), base, {"SLUICE_ORIGIN": "https://billing.example.com"}).env.values
    assert values["SLUICE_ORIGIN"] == "https://billing.example.com"
    assert values["SLUICE_ORIGIN_PORT"] == str(base)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SLUICE_ORIGIN": "billing"}, "must be an address"),
        ({"SLUICE_LEDGER_URL": "http://elsewhere:1"}, "Set SLUICE_LEDGER_PORT instead"),
        ({"SLUICE_POSTGRES": "mysql://x"}, "must begin with postgresql://"),
        (
            {"SLUICE_LEDGER_URL": "http://localhost:1", "SLUICE_LEDGER_PORT": "2"},
            "set different ports",
        ),
        ({"STRIPE_SECRET_KEY": "sk_live_51abc"}, "does not begin with sk_test_"),
        ({"SLUICE_STRIPE_API_BASE": ""}, "set STRIPE_SECRET_KEY"),
    ],
)
def test_contradictions_are_told_without_the_values_of_secrets(
    given: dict[str, str], message: str, base: int
) -> None:
    with pytest.raises(StackError, match=message) as caught:
        choose(EnvFile(), base, given)
    assert "51abc" not in str(caught.value)


def test_stripe_itself_takes_the_place_of_the_sandbox(base: int) -> None:
    given = {"SLUICE_STRIPE_API_BASE": "", "STRIPE_SECRET_KEY": "sk_test_mine"}
    settled = choose(EnvFile(), base, given)
    assert not settled.sandbox
    assert settled.env.values["SLUICE_STRIPE_API_BASE"] == ""
    assert "STRIPE_SIM_URL" not in settled.env.values


def test_the_key_of_a_real_stripe_is_not_kept_for_the_sandbox(base: int, tmp_path: Path) -> None:
    given = {"SLUICE_STRIPE_API_BASE": "", "STRIPE_SECRET_KEY": "sk_live_mine"}
    first = choose(EnvFile(), base, given)
    values = choose(again(first, tmp_path / "env"), base).env.values
    assert values["STRIPE_SECRET_KEY"].startswith("sk_test_")


def test_the_configuration_file_is_not_hidden_by_our_choices(base: int, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "billing: {stripe: {secret_key: sk_test_from_file}, platform_fallback: listed}"
    )
    values = choose(EnvFile(), base, {"SLUICE_CONFIG": str(config)}).env.values
    assert values["STRIPE_SECRET_KEY"] == "sk_test_from_file"
    assert values["SLUICE_PLATFORM_FALLBACK"] == "listed"
    config.write_text("billing: {platform_fallback: off}")
    values = choose(EnvFile(), base, {"SLUICE_CONFIG": str(config)}).env.values
    assert values["SLUICE_PLATFORM_FALLBACK"] == "off"


def test_other_programs_variables_and_the_commands_own_stay_out(base: int) -> None:
    given = {"PGHOST": "x", "SLUICE_LOCAL": "y", "SLUICE_LOG_LEVEL": "debug"}
    values = choose(EnvFile(), base, given).env.values
    assert values["SLUICE_LOG_LEVEL"] == "debug"
    assert not {"PGHOST", "SLUICE_LOCAL"} & values.keys()
