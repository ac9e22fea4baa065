"""The commands on a stack that never ran, and on one that runs."""

import json
import os
import signal
from pathlib import Path

import pytest

from deploy.local.folders import CACHE
from deploy.local.jars import checksums, jar_folder
from deploy.local.logs import tail
from deploy.local.ports import scratch_port
from deploy.local.process import identify
from deploy.local.scratch import start_postgres
from deploy.local.stack import Stack
from libs.contracts.topics import PARTITIONS, TOPICS
from tests.cli.conftest import Sluice
from tests.stack.test_supervisor import state_of, until

FIGURES = ["ready", "lag_records", "outbox_unsent", "parked", "dead_letters", "breaks"]


def test_the_status_of_a_stack_that_never_ran(sluice: Sluice) -> None:
    result = sluice("status", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout) == {**dict.fromkeys(FIGURES), "ready": False}
    shown = sluice("status")
    assert shown.returncode == 1
    assert "`sluice up` starts the stack" in shown.stdout


def test_there_is_nothing_to_stop(sluice: Sluice) -> None:
    result = sluice("down")
    assert result.returncode == 0
    assert "Nothing was running." in result.stdout


@pytest.mark.parametrize("command", ["lag", "topics"])
def test_kafka_was_never_started(command: str, sluice: Sluice) -> None:
    result = sluice(command, "--json")
    assert result.returncode == 1
    assert "never started" in result.stderr
    assert result.stdout == ""


def test_there_are_no_logs_yet(sluice: Sluice) -> None:
    result = sluice("logs")
    assert result.returncode == 1
    assert "There are no logs yet" in result.stderr


def test_logs_of_one_program_and_of_none_there_is(sluice: Sluice, local: Path) -> None:
    (local / "logs").mkdir(parents=True)
    (local / "logs" / "ledger.log").write_text("first\nsecond [markup]\nthird\n")
    assert "second [markup]\n      ledger third" in sluice("logs", "ledger", "-n", "2").stdout
    assert "first" not in sluice("logs", "ledger", "-n", "2").stdout
    result = sluice("logs", "legder")
    assert result.returncode == 1
    assert "There is no log of 'legder'. Logs: ledger." in result.stderr


def test_doctor_names_what_is_wrong_and_what_to_do(sluice: Sluice, local: Path) -> None:
    assert sluice("doctor").returncode == 0
    local.mkdir()
    (local / "env").write_text("SLUICE_KEY_PEPPER=short\n")
    (local / "env").chmod(0o644)
    result = sluice("doctor", "--json")
    assert result.returncode == 1
    advice = " ".join(finding["advice"] for finding in json.loads(result.stdout))
    assert "chmod 600" in advice
    assert "correct SLUICE_KEY_PEPPER" in advice
    assert "set SLUICE_KAFKA" in advice


def test_doctor_checks_the_configuration_file(sluice: Sluice, local: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("billing: {strip: {enabled: true}}")
    local.mkdir()
    (local / "env").touch(mode=0o600)
    result = sluice("doctor", "--json", SLUICE_CONFIG=str(config))
    assert result.returncode == 1
    assert "unknown key billing.strip" in result.stdout


def test_reset_keeps_downloads_only(sluice: Sluice, local: Path) -> None:
    for name in ("cache", "tools", "data", "logs"):
        (local / name).mkdir(parents=True)
    (local / "env").touch()
    assert sluice("reset", "--yes").returncode == 0
    assert sorted(entry.name for entry in local.iterdir()) == ["cache", "tools"]


needs_kafka = pytest.mark.skipif(
    any(not (jar_folder(CACHE) / name).exists() for name in checksums()),
    reason="Kafka's jars are not fetched yet; `make up` fetches them",
)


@pytest.mark.kafka
@needs_kafka
def test_a_stack_from_start_to_end(sluice: Sluice, local: Path) -> None:
    """Real Kafka and Postgres with every role, schema and topic, but no service."""
    stack = Stack(local, services=[], port_base=scratch_port())
    stack.up()
    result = sluice("status", "--json")
    assert result.returncode == 0, result.stdout
    assert json.loads(result.stdout) == {**dict.fromkeys(FIGURES, 0), "ready": True}
    topics = {each["name"]: each for each in json.loads(sluice("topics", "--json").stdout)}
    assert topics.keys() == {topic.name for topic in TOPICS}
    assert {each["partitions"] for each in topics.values()} == {PARTITIONS}
    assert topics["usage.events"]["producers"] == ["metering"]
    assert "payments.events" in sluice("topics").stdout
    assert sluice("lag").returncode == 0

    before = state_of(stack, "postgres")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: state_of(stack, "postgres").restarts == 1)
    # Recovery makes every file of the data folder durable: minutes where a busy disk is slow.
    until(
        lambda: state_of(stack, "postgres").phase == "ready",
        seconds=180,
        otherwise=lambda: "\n".join(tail(stack.folders.log("postgres"), 30)),
    )
    shown = sluice("status")
    assert "killed by SIGKILL" in shown.stdout

    secrets = stack.environment()
    assert sluice("down").returncode == 0
    assert stack.state() is None
    stack.up()
    assert stack.environment() == secrets
    assert sluice("reset", "--yes").returncode == 0
    assert not (local / "data").exists()


@pytest.mark.kafka
@needs_kafka
def test_a_postgres_of_the_users_is_used_and_left_running(
    sluice: Sluice, local: Path, tmp_path: Path
) -> None:
    mine = start_postgres(tmp_path / "mine")
    try:
        given = {"SLUICE_POSTGRES": mine.dsn}
        stack = Stack(local, services=[], port_base=scratch_port(), process_environment=given)
        stack.up()
        state = stack.state()
        assert state is not None
        assert "postgres" not in {program.name for program in state.programs}
        assert stack.environment()["SLUICE_POSTGRES"] == mine.dsn
        assert sluice("status").returncode == 0
        stack.down()
        assert identify(mine.pid) is not None
    finally:
        mine.stop()
