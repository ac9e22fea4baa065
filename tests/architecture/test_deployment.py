"""compose.yaml, Prometheus and Grafana say what the code says."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

from cli.generate_apps import SANDBOX
from deploy import compose_env
from deploy.local.environment import SERVICE_PORTS, WITHOUT_SCHEMA
from libs.observability import metrics
from libs.settings import ProcessSettings, read

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PRESENT = [name for name in SERVICE_PORTS if (ROOT / "services" / name / "app.py").exists()]
OWN_METRIC = re.compile(r"\bsluice_[a-z_]+\b")


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Compose's own substitution: ${NAME}, ${NAME-default}, ${NAME:-default}, ${NAME:?message}."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match[1], match[2] or "", match[3] or ""
        if name in variables:
            return variables[name]
        assert not operator.endswith("?"), f"compose_env gives no {name}"
        return rest

    return re.sub(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}", value, text)


def environment_of(service: str) -> dict[str, str]:
    given = COMPOSE["services"][service.replace("_", "-")]["environment"]
    secrets = compose_env.variables()
    return {name: interpolate(str(value), secrets) for name, value in given.items()}


@pytest.mark.parametrize("service", [name for name in PRESENT if name != SANDBOX])
def test_a_container_is_given_all_it_needs(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLUICE_CONFIG", "SLUICE_STRIPE_API_BASE", "STRIPE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    environment = environment_of(service)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    module = __import__(f"services.{service}.settings", fromlist=["Settings"])
    settings: ProcessSettings = read(module.Settings)
    assert settings.port == SERVICE_PORTS[service]


@pytest.mark.parametrize("producer", ["billing", "stripe-sync"])
def test_the_ledger_is_replaced_before_who_tells_it_what_to_book(producer: str) -> None:
    waits_for = COMPOSE["services"][producer]["depends_on"]
    assert waits_for["ledger"] == {"condition": "service_healthy"}
    assert "deploy" in waits_for
    assert not {"billing", "stripe-sync"} & set(COMPOSE["services"]["ledger"]["depends_on"])


@pytest.mark.parametrize("service", PRESENT)
def test_a_container_has_no_login_but_its_own(service: str) -> None:
    logins = {name for name in environment_of(service) if name.endswith("_POSTGRES")}
    own = set() if service in WITHOUT_SCHEMA else {f"SLUICE_{service.upper()}_POSTGRES"}
    assert logins == own


def test_every_service_has_a_container_and_an_upstream() -> None:
    caddy = COMPOSE["services"]["caddy"]["environment"]
    for service, port in SERVICE_PORTS.items():
        name = service.replace("_", "-")
        assert COMPOSE["services"][name]["build"]["args"]["SERVICE"] == service
        if service != SANDBOX:
            assert caddy[f"SLUICE_{service.upper()}_UPSTREAM"] == f"{name}:{port}"


def test_the_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "compose.env"
    assert compose_env.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_text()
    assert not compose_env.write(path)
    assert path.read_text() == before


def test_every_port_is_for_this_machine_only() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"


def test_prometheus_scrapes_every_service() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    found = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    expected = {
        name: [f"{name.replace('_', '-')}:{port}"]
        for name, port in SERVICE_PORTS.items()
        if name != SANDBOX
    }
    assert found == expected


def _metric_names() -> dict[str, str]:
    """Every series name that a metric of ours has, with the constant that holds the metric."""
    names = {}
    for constant, metric in vars(metrics).items():
        if isinstance(metric, prometheus_client.metrics.MetricWrapperBase):
            name = metric._name
            for suffix in ("", "_total", "_bucket", "_sum", "_count"):
                names[f"{name}{suffix}"] = constant
    return names


def _is_recorded(constant: str) -> bool:
    files = [*(ROOT / "libs").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    texts = [path.read_text() for path in files if path.name != "metrics.py"]
    return any(f"{constant}." in text for text in texts)


def _expressions() -> list[tuple[str, str]]:
    boards = (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")
    panels = [panel for board in boards for panel in json.loads(board.read_text())["panels"]]
    found = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    return [(rule["alert"], rule["expr"]) for rule in RULES] + found


@pytest.mark.parametrize(("title", "expression"), _expressions(), ids=lambda text: text[:40])
def test_an_expression_names_metrics_that_are_recorded(title: str, expression: str) -> None:
    known = _metric_names()
    used = set(OWN_METRIC.findall(expression))
    assert used or "up" in expression, title
    for name in used:
        assert name in known, f"{title}: there is no metric {name}"
        assert _is_recorded(known[name]), f"{title}: nothing records {known[name]}"


@pytest.mark.parametrize(
    "told_by", ["sluice_stripe_objects_unreadable_total", 'kind="stripe_access_in_doubt"']
)
def test_what_only_a_person_can_mend_raises_an_alert(told_by: str) -> None:
    assert [rule["alert"] for rule in RULES if told_by in rule["expr"]]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    folder = ROOT / "docs" / "runbooks"
    alerts = {rule["alert"] for rule in RULES}
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"
    assert {path.stem for path in folder.glob("Sluice*.md")} == alerts
    for path in folder.glob("Sluice*.md"):
        text = path.read_text()
        for heading in ("## What it means", "## Where to look", "## What to do"):
            assert heading in text, f"{path.name} lacks `{heading}`"
