"""Health names what is not ready; metrics have one home and no tenant."""

import ast
import asyncio

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from libs.observability import health as health_module
from libs.observability import metrics
from libs.observability.health import Check, Health


async def test_checks_may_be_sync_or_async():
    health = Health()

    async def kafka() -> Check:
        await asyncio.sleep(0)
        return Check(ok=False, detail="lag 70 s")

    health.register("postgres", lambda: Check(ok=True))
    health.register("kafka", kafka)
    assert await health.run() == {"postgres": Check(ok=True), "kafka": Check(False, "lag 70 s")}


async def test_a_check_that_raises_fails_by_class_name_only():
    def broken() -> Check:
        raise ConnectionError("postgresql://u:secret@h")

    health = Health()
    health.register("postgres", broken)
    assert await health.run() == {"postgres": Check(False, "ConnectionError")}


async def test_a_check_that_hangs_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health_module, "CHECK_TIMEOUT_SECONDS", 0.01)

    async def hangs() -> Check:
        await asyncio.sleep(60)
        return Check(ok=True)

    health = Health()
    health.register("kafka", hangs)
    results = await health.run()
    assert not results["kafka"].ok
    assert "no answer" in results["kafka"].detail


async def test_a_process_that_stops_is_not_ready():
    health = Health()
    assert await health.run() == {}
    health.stop()
    assert (await health.run())["process"] == Check(False, "stopping")


def test_a_name_is_registered_once():
    health = Health()
    health.register("postgres", lambda: Check(ok=True))
    with pytest.raises(ValueError, match="already"):
        health.register("postgres", lambda: Check(ok=True))


def ours() -> list[MetricWrapperBase]:
    return [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]


def test_every_metric_carries_our_prefix_and_no_tenant():
    assert len(ours()) > 20
    for metric in ours():
        (family,) = metric.collect()
        assert family.name.startswith("sluice_")
        assert family.documentation
        labels = set(metric._labelnames)
        assert not labels & {"tenant", "tenant_id", "customer", "customer_id", "id", "path"}


def test_units_stand_last_in_names():
    for metric in ours():
        (family,) = metric.collect()
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_entries"))


def test_the_exposition_can_be_parsed_and_has_no_created_series():
    metrics.OUTBOX_SENT_TOTAL.labels("usage.events").inc()
    text = metrics.exposition().decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"sluice_outbox_unsent_records", "sluice_outbox_sent"} <= families
    assert "_created" not in text
    assert REGISTRY.get_sample_value("sluice_outbox_sent_total", {"topic": "usage.events"})


def test_no_other_module_makes_metrics(request: pytest.FixtureRequest):
    root = request.config.rootpath
    for folder in ("libs", "services"):
        for path in (root / folder).rglob("*.py"):
            if path.name == "metrics.py" or "stripe_sim" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client":
                    names = {alias.name for alias in node.names}
                    assert not names & {"Counter", "Gauge", "Histogram", "Summary"}, path
