"""Settings of the sandbox: the only reader of the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

API_VERSION = "2026-10-28.endive"
"""The API version whose object model the sandbox speaks, and the one its events carry."""

DEFAULT_SECRET_KEY = "sk_test_platform_sandbox"  # noqa: S105 - a well-known key of a fake
DEFAULT_WEBHOOK_SECRET = "whsec_platform_sandbox"  # noqa: S105 - likewise

LOOPBACK = "127.0.0.1"
ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - inside a container only, see `_host`
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")

LIVE_PREFIXES = ("sk_live_", "rk_live_", "pk_live_")


class SettingsError(ValueError):
    """The environment asks for something the sandbox refuses; the message says what to change."""


@dataclass(frozen=True)
class Settings:
    """Everything that can be set from outside; see README.md for the variables."""

    port: int = 8110
    host: str = LOOPBACK
    public_url: str = "http://127.0.0.1:8110"
    secret_key: str = DEFAULT_SECRET_KEY
    webhook_url: str | None = None
    webhook_secret: str = DEFAULT_WEBHOOK_SECRET
    connect_webhook_secret: str = DEFAULT_WEBHOOK_SECRET
    state_path: Path | None = None
    seed: str | None = None
    retry_delay_seconds_min: float = 0.25
    retry_delay_seconds_max: float = 10.0
    client_id: str = "ca_platform_sandbox"
    slow_payment_seconds: int = 30
    delivery_timeout_seconds: float = 10.0
    deliveries_at_once_max: int = 4
    rate_limit_per_second: int = 0


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: a live key, a bad number or an address without a scheme was given.
    """
    env = os.environ if environ is None else environ
    port = _whole_number(env, "SLUICE_STRIPE_SIM_PORT", 8110)
    secret_key = env.get("STRIPE_SECRET_KEY") or DEFAULT_SECRET_KEY
    if secret_key.startswith(LIVE_PREFIXES):
        raise SettingsError("STRIPE_SECRET_KEY is a live key: the sandbox takes sk_test_… only")
    if not secret_key.startswith("sk_test_"):
        raise SettingsError("STRIPE_SECRET_KEY must begin with sk_test_")
    secret = env.get("STRIPE_WEBHOOK_SECRET") or DEFAULT_WEBHOOK_SECRET
    state = env.get("STRIPE_SIM_STATE")
    return Settings(
        port=port,
        host=_host(env),
        public_url=(env.get("STRIPE_SIM_URL") or f"http://127.0.0.1:{port}").rstrip("/"),
        secret_key=secret_key,
        webhook_url=_webhook_url(env),
        webhook_secret=secret,
        connect_webhook_secret=env.get("STRIPE_CONNECT_WEBHOOK_SECRET") or secret,
        state_path=Path(state) if state else None,
        seed=env.get("STRIPE_SIM_SEED") or None,
        client_id=env.get("STRIPE_CLIENT_ID") or Settings.client_id,
        slow_payment_seconds=_whole_number(env, "STRIPE_SIM_SLOW_PAYMENT_SECONDS", 30),
        rate_limit_per_second=_whole_number(env, "STRIPE_SIM_RATE_LIMIT_PER_SECOND", 0),
    )


def _host(env: Mapping[str, str]) -> str:
    """Return the address to listen on: loopback, or everything inside a container's own network."""
    wish = env.get("STRIPE_SIM_LISTEN") or "loopback"
    if wish == "loopback":
        return LOOPBACK
    inside = "KUBERNETES_SERVICE_HOST" in env or any(map(os.path.exists, CONTAINER_MARKS))
    if wish != "container" or not inside:
        raise SettingsError(
            "STRIPE_SIM_LISTEN must be loopback, or container inside a container: the sandbox "
            "guards nothing and must not be reachable from a network"
        )
    return ALL_INTERFACES


def _webhook_url(env: Mapping[str, str]) -> str | None:
    url = env.get("STRIPE_SIM_WEBHOOK_URL")
    if not url and env.get("SLUICE_GATEWAY_URL"):
        url = env["SLUICE_GATEWAY_URL"].rstrip("/") + "/api/webhooks/stripe"
    if url and not url.startswith(("http://", "https://")):
        raise SettingsError("STRIPE_SIM_WEBHOOK_URL must begin with http:// or https://")
    return url or None


def _whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise SettingsError(f"{name} must be a whole number, not {text!r}")
    return int(text)
