"""The stack's variables: what the user set, what the last run chose, and fresh secrets for the rest."""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import yaml

from deploy.local import postgres
from deploy.local.env_file import EnvFile
from deploy.local.errors import StackError
from deploy.local.folders import REPOSITORY
from deploy.local.ports import HOST, PortChooser, parse_port
from libs.crypto import apikeys
from libs.settings import DEFAULT_CONFIG_PATH, VARIABLE_OF_FILE_KEY

# Service -> its port. Offsets from a port base keep the same order.
SERVICE_PORTS = {
    "gateway": 8101,
    "tenants": 8102,
    "metering": 8103,
    "billing": 8104,
    "stripe_sync": 8105,
    "ledger": 8106,
    "reporting": 8107,
    "console": 8108,
    "stripe_sim": 8110,
}
WITHOUT_SCHEMA = {"console", "stripe_sim"}
ORIGIN_PORT, KAFKA_PORT, CONTROLLER_PORT, POSTGRES_PORT = 8080, 9092, 9093, 5432
# Where the same servers stand in a stack that is given a port base.
OFFSETS = {
    "SLUICE_ORIGIN_PORT": 0,
    "SLUICE_KAFKA_PORT": 92,
    "SLUICE_KAFKA_CONTROLLER_PORT": 93,
    "SLUICE_POSTGRES_PORT": 32,
}
PREFIXES = ("SLUICE_", "STRIPE_", "OTEL_")
# Read by the commands themselves, not by any program of the stack.
FOR_COMMANDS = {"SLUICE_LOCAL", "SLUICE_PORT_BASE", "SLUICE_MIN_FREE_DISK_MB"}
LOCAL_HOSTS = {"127.0.0.1", "localhost"}
OPERATOR_EMAIL = "operator@example.com"
SANDBOX_CLIENT_ID = "ca_platform_sandbox"


@dataclass(frozen=True, slots=True)
class Settled:
    """The variables of one run, and which servers are the user's own.

    Attributes:
        own_postgres: Postgres is the stack's, not the user's.
        own_kafka: Kafka likewise.
        sandbox: Stripe is the sandbox, not a Stripe the user named.
    """

    env: EnvFile
    own_postgres: bool
    own_kafka: bool
    sandbox: bool


def settle(
    last: EnvFile,
    process_environment: Mapping[str, str],
    admin_password: str,
    port_base: int | None = None,
    master_keys_file: Path | None = None,
) -> Settled:
    """Choose every variable of the next run.

    Args:
        last: the file of the last run.
        process_environment: the user's environment; other programs' variables are ignored.
        admin_password: of the stack's own Postgres.
        port_base: where a second stack's ports begin; the laptop stack has its fixed defaults.
        master_keys_file: where the stack keeps its master keys, unless the user gives them; without
            it they stand in a variable.

    Raises:
        StackError: an explicitly set port is taken, or what the user set contradicts itself.
    """
    ours = {
        name: value
        for name, value in process_environment.items()
        if name.startswith(PREFIXES) and name not in FOR_COMMANDS
    }
    explicit = last.explicit(ours)
    in_config_file = _config_file_values(ours)
    settling = _Settling(last, explicit, in_config_file, admin_password, port_base)
    return settling.settle(master_keys_file)


class _Settling:
    """One pass over the variables, group by group, into `self.values`."""

    def __init__(
        self,
        last: EnvFile,
        explicit: dict[str, str],
        in_config_file: dict[str, str],
        admin_password: str,
        port_base: int | None,
    ) -> None:
        self.last = last.values
        # What the user set last time and sets no more is ours to choose again.
        self.ours_last = {
            name: value for name, value in self.last.items() if name not in last.set_by_user
        }
        # An empty variable counts as absent, but for the one whose emptiness means something.
        self.explicit = {
            name: value
            for name, value in explicit.items()
            if value or name == "SLUICE_STRIPE_API_BASE"
        }
        self.in_config_file = in_config_file
        self.admin_password = admin_password
        self.port_base = port_base
        self.ports = PortChooser()
        self.values: dict[str, str] = {}

    def settle(self, master_keys_file: Path | None) -> Settled:
        own_postgres = "SLUICE_POSTGRES" not in self.explicit
        own_kafka = "SLUICE_KAFKA" not in self.explicit
        base = self.explicit.get("SLUICE_STRIPE_API_BASE")
        sandbox = base is None
        ports = self._choose_ports(own_postgres=own_postgres, own_kafka=own_kafka, sandbox=sandbox)
        self._origins(ports)
        self._kafka(ports)
        self._postgres(ports)
        self._services(ports)
        self._stripe(base)
        self._secrets()
        self._master_keys(master_keys_file)
        self.values["SLUICE_PLATFORM_FALLBACK"] = self.explicit.get(
            "SLUICE_PLATFORM_FALLBACK"
        ) or self.in_config_file.get("SLUICE_PLATFORM_FALLBACK", "test")
        self.values |= self.explicit
        env = EnvFile(self.values, frozenset(self.explicit))
        return Settled(env, own_postgres, own_kafka, sandbox)

    def _choose_ports(
        self, *, own_postgres: bool, own_kafka: bool, sandbox: bool
    ) -> dict[str, int]:
        wanted = {"SLUICE_ORIGIN_PORT": ORIGIN_PORT}
        if own_postgres:
            wanted["SLUICE_POSTGRES_PORT"] = POSTGRES_PORT
        if own_kafka:
            wanted |= {
                "SLUICE_KAFKA_PORT": KAFKA_PORT,
                "SLUICE_KAFKA_CONTROLLER_PORT": CONTROLLER_PORT,
            }
        for service, port in SERVICE_PORTS.items():
            if sandbox or service != "stripe_sim":
                wanted[f"SLUICE_{service.upper()}_PORT"] = port
        chosen: dict[str, int] = {}
        for name in wanted:
            if (found := self._explicit_port(name)) is not None:
                chosen[name] = self.ports.take_explicit(*found)
        for name, default in wanted.items():
            if name not in chosen:
                previous = self.ours_last.get(name)
                chosen[name] = self.ports.take_default(
                    name,
                    default if self.port_base is None else self._moved(name, default),
                    int(previous) if previous and previous.isdigit() else None,
                )
        return {name: chosen[name] for name in wanted}

    def _moved(self, name: str, default: int) -> int:
        return (self.port_base or 0) + OFFSETS.get(name, default - 8100)

    def _explicit_port(self, name: str) -> tuple[str, int] | None:
        """The variable that sets this port, by number or inside an address, and the port."""
        stem = name.removesuffix("_PORT")
        addresses = [stem if stem == "SLUICE_ORIGIN" else f"{stem}_URL"]
        if stem == "SLUICE_STRIPE_SIM":
            addresses.append("STRIPE_SIM_URL")
        found: dict[str, int] = {}
        if name in self.explicit:
            found[name] = parse_port(name, self.explicit[name])
        for variable in addresses:
            if variable in self.explicit and (port := self._local_port(variable)) is not None:
                found[variable] = port
        if len(set(found.values())) > 1:
            raise StackError(f"{' and '.join(found)} set different ports. Set one of them.")
        return next(iter(found.items()), None)

    def _local_port(self, variable: str) -> int | None:
        address = self.explicit[variable]
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise StackError(
                f"{variable} must be an address like http://127.0.0.1:8080, not {address!r}."
            )
        if parts.hostname in LOCAL_HOSTS and parts.scheme == "http":
            return parse_port(variable, str(parts.port or 80))
        if variable == "SLUICE_ORIGIN":
            return None  # a public name in front of the stack: only the name changes
        raise StackError(
            f"{variable} is {address!r}, but the stack starts this service itself on {HOST}."
            f" Set {variable.removesuffix('_URL')}_PORT instead."
        )

    def _origins(self, ports: Mapping[str, int]) -> None:
        port = ports["SLUICE_ORIGIN_PORT"]
        self.values["SLUICE_ORIGIN"] = f"http://{HOST}:{port}"
        self.values["SLUICE_PORTAL_ORIGIN"] = f"http://localhost:{port}"
        self.values["SLUICE_ORIGIN_PORT"] = str(port)

    def _kafka(self, ports: Mapping[str, int]) -> None:
        for name in ("SLUICE_KAFKA_PORT", "SLUICE_KAFKA_CONTROLLER_PORT"):
            if name in ports:
                self.values[name] = str(ports[name])
        if "SLUICE_KAFKA_PORT" in ports:
            self.values["SLUICE_KAFKA"] = f"{HOST}:{ports['SLUICE_KAFKA_PORT']}"

    def _postgres(self, ports: Mapping[str, int]) -> None:
        if "SLUICE_POSTGRES_PORT" in ports:
            port = ports["SLUICE_POSTGRES_PORT"]
            self.values["SLUICE_POSTGRES_PORT"] = str(port)
            self.values["SLUICE_POSTGRES"] = postgres.dsn(self.admin_password, port)
        admin = self.values.get("SLUICE_POSTGRES") or self.explicit["SLUICE_POSTGRES"]
        if urlsplit(admin).scheme not in {"postgresql", "postgres"}:
            raise StackError("SLUICE_POSTGRES must begin with postgresql://.")
        for service in SERVICE_PORTS:
            if service not in WITHOUT_SCHEMA:
                name, role = f"SLUICE_{service.upper()}_POSTGRES", f"sluice_{service}"
                password = _password_of(self.last.get(name), role)
                self.values[name] = _with_login(admin, role, password)

    def _services(self, ports: Mapping[str, int]) -> None:
        for service in SERVICE_PORTS:
            stem = f"SLUICE_{service.upper()}"
            if f"{stem}_PORT" in ports:
                port = ports[f"{stem}_PORT"]
                self.values[f"{stem}_PORT"] = str(port)
                self.values[f"{stem}_URL"] = f"http://{HOST}:{port}"

    def _stripe(self, base: str | None) -> None:
        key = self._given("STRIPE_SECRET_KEY")
        if base is None:
            if key and not key.startswith("sk_test_"):
                raise StackError(
                    "STRIPE_SECRET_KEY does not begin with sk_test_, and this stack uses the Stripe"
                    " sandbox. Unset it; or, to use Stripe itself, set SLUICE_STRIPE_API_BASE to"
                    " nothing (SLUICE_STRIPE_API_BASE=)."
                )
            address = self.values["SLUICE_STRIPE_SIM_URL"]
            self.values |= {
                "SLUICE_STRIPE_API_BASE": address,
                "STRIPE_SIM_URL": address,
                "STRIPE_CLIENT_ID": SANDBOX_CLIENT_ID,
                # The sandbox has no rate limit, so none has to be kept.
                "SLUICE_STRIPE_SYNC_TEST_CALLS_PER_SECOND": "0",
            }
        elif not key:
            raise StackError("SLUICE_STRIPE_API_BASE is set: set STRIPE_SECRET_KEY as well.")
        connect = self._given("STRIPE_CONNECT_WEBHOOK_SECRET")
        if base is None or connect:
            self.values["STRIPE_CONNECT_WEBHOOK_SECRET"] = (
                connect
                or self.ours_last.get("STRIPE_CONNECT_WEBHOOK_SECRET")
                or "whsec_" + secrets.token_hex(24)
            )
        webhook = self._given("STRIPE_WEBHOOK_SECRET")
        self.values["STRIPE_SECRET_KEY"] = (
            key or self.ours_last.get("STRIPE_SECRET_KEY") or "sk_test_" + secrets.token_hex(24)
        )
        self.values["STRIPE_WEBHOOK_SECRET"] = (
            webhook
            or self.ours_last.get("STRIPE_WEBHOOK_SECRET")
            or "whsec_" + secrets.token_hex(24)
        )

    def _given(self, name: str) -> str | None:
        return self.explicit.get(name) or self.in_config_file.get(name)

    def _kept(self, name: str, fresh: str) -> str:
        """What data of the stack depends on stays for ever, whoever chose it."""
        return self.last.get(name) or fresh

    def _secrets(self) -> None:
        self.values |= {
            "SLUICE_KEY_PEPPER": self._kept("SLUICE_KEY_PEPPER", _base64(32)),
            "SLUICE_OPERATOR_KEY": self._kept("SLUICE_OPERATOR_KEY", apikeys.generate("test").key),
            "SLUICE_OPERATOR_EMAIL": self._kept("SLUICE_OPERATOR_EMAIL", OPERATOR_EMAIL),
            "SLUICE_OPERATOR_PASSWORD": self._kept(
                "SLUICE_OPERATOR_PASSWORD", secrets.token_urlsafe(18)
            ),
        }

    def _master_keys(self, file: Path | None) -> None:
        if "SLUICE_MASTER_KEYS_FILE" in self.explicit:
            return
        if file is not None and "SLUICE_MASTER_KEYS" not in self.explicit:
            self.values["SLUICE_MASTER_KEYS_FILE"] = str(file)
        else:
            self.values["SLUICE_MASTER_KEYS"] = self._kept(
                "SLUICE_MASTER_KEYS", f"k1:{_base64(32)}"
            )


def _base64(size_bytes: int) -> str:
    return base64.b64encode(secrets.token_bytes(size_bytes)).decode()


def _password_of(last_dsn: str | None, role: str) -> str:
    """The password this role had in the last run, else a fresh one."""
    parts = urlsplit(last_dsn or "")
    if parts.username and parts.password and unquote(parts.username) == role:
        return unquote(parts.password)
    return secrets.token_hex(16)


def _with_login(admin_dsn: str, role: str, password: str) -> str:
    parts = urlsplit(admin_dsn)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{place}"))


def _config_file_values(environment: Mapping[str, str]) -> dict[str, str]:
    """What the configuration file says, by variable: our choices must not hide it from the services.

    A broken file is left for the services to name; they check every key.
    """
    path = Path(environment.get("SLUICE_CONFIG") or REPOSITORY / DEFAULT_CONFIG_PATH)
    try:
        content: Any = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    values = {}
    for key, variable in VARIABLE_OF_FILE_KEY.items():
        value = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, bool):
            value = {"billing.platform_fallback": "off"}.get(key) if value is False else None
        if value not in (None, ""):
            values[variable] = str(value)
    return values
