"""Who may import whom: the contracts of .importlinter, and the layers that follow from names."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.generate_apps import SANDBOX
from tests.architecture.layers import layer_faults

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(p.parent.name for p in (ROOT / "services").glob("*/__init__.py"))


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(
        command,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root)},
    )


def test_the_contracts_are_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout[-3000:]


def test_layers_by_name_are_kept() -> None:
    assert layer_faults(ROOT / "services", [s for s in SERVICES if s != SANDBOX]) == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code alone, to plant faults in."""
    folder = tmp_path_factory.mktemp("repository")
    ignored = shutil.ignore_patterns("__pycache__", "migrations", "templates", "static")
    for name in ("libs", "services", "cli", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / ".importlinter", folder)
    return folder


PLANTED = {
    "Services never import each other": "services/gateway/planted.py:import services.billing.rating",
    "Libraries know no service": "libs/db/planted.py:import services.billing.rating",
    "Libraries stand in layers": "libs/db/planted.py:import libs.messaging.outbox",
    "Within a service": "services/gateway/store.py:import services.gateway.handlers",
    "Only stripe_sync and tenants": "services/gateway/planted.py:import stripe",
    "Below libs.web": "libs/messaging/planted.py:import fastapi",
    "used by tests only": "services/gateway/planted.py:import libs.testing.databases",
    "The sandbox imports nothing": "services/stripe_sim/planted.py:import libs.money",
}


def test_planted_imports_are_found(copy: Path) -> None:
    """All at once, for each run reads all the code."""
    before: dict[Path, str | None] = {}
    for fault in PLANTED.values():
        name, _, line = fault.partition(":")
        path = copy / name
        before.setdefault(path, path.read_text() if path.exists() else None)
        with path.open("a") as file:
            file.write(f"\n{line}\n")
    done = lint_imports(copy)
    for path, text in before.items():
        path.unlink() if text is None else path.write_text(text)
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert done.returncode == 1
    for contract in PLANTED:
        assert any(contract in line for line in broken), (contract, done.stdout[-3000:])


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        (
            "rating.py",
            "from services.trial.routes_plans import x",
            "trial/rating.py imports routes_plans.py, which stands above it",
        ),
        (
            "store_plans.py",
            "import services.trial.invoices",
            "trial/store_plans.py imports invoices.py, which stands above it",
        ),
        ("rating.py", "import fastapi", "trial/rating.py knows the framework fastapi"),
        (
            "handlers.py",
            "from starlette.requests import Request",
            "trial/handlers.py knows the framework starlette",
        ),
    ],
)
def test_planted_layers_are_found(tmp_path: Path, name: str, line: str, fault: str) -> None:
    (tmp_path / "trial").mkdir()
    for good in ("routes_plans.py", "rating.py", "store_plans.py", "handlers.py"):
        (tmp_path / "trial" / good).write_text("")
    (tmp_path / "trial" / "invoices.py").write_text("import services.trial.store_invoices")
    (tmp_path / "trial" / "store_invoices.py").write_text("import services.trial.rating")
    (tmp_path / "trial" / name).write_text(line)
    assert layer_faults(tmp_path, ["trial"]) == [fault]
