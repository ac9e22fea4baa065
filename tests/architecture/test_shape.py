"""Every service has the same files, a passport, a composition root and, with state, migrations."""

import ast
from pathlib import Path

import pytest

from cli.generate_apps import CONSOLE, SANDBOX
from deploy.local.environment import SERVICE_PORTS, WITHOUT_SCHEMA
from libs.contracts.topics import EVERYBODY

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(p.parent.name for p in (ROOT / "services").glob("*/app.py"))
PASSPORT = ("\nOwns", "\nConsumes", "\nProduces", "\nInvariants")
LINES_MAX = 400


def has(service: str, word: str) -> bool:
    """Whether the service has this file, or files it was split into."""
    folder = ROOT / "services" / service
    return (folder / f"{word}.py").exists() or bool(list(folder.glob(f"{word}_*.py")))


def test_every_service_is_known_to_the_stack_and_the_record_of_topics() -> None:
    assert set(SERVICES) <= set(SERVICE_PORTS)
    assert set(SERVICES) - WITHOUT_SCHEMA <= set(EVERYBODY)
    assert {CONSOLE, SANDBOX} == WITHOUT_SCHEMA


@pytest.mark.parametrize("service", SERVICES)
def test_the_passport(service: str) -> None:
    tree = ast.parse((ROOT / "services" / service / "__init__.py").read_text())
    passport = ast.get_docstring(tree) or ""
    first = passport.partition("\n")[0]
    assert first.endswith(".")
    for word in PASSPORT:
        assert word in passport, f"the passport of {service} says nothing of `{word.strip()}`"


@pytest.mark.parametrize("service", SERVICES)
def test_the_files(service: str) -> None:
    folder = ROOT / "services" / service
    for name in ("settings.py", "app.py"):
        assert (folder / name).is_file(), f"{service} has no {name}"
    if service in WITHOUT_SCHEMA:
        assert not (folder / "migrations").exists()
        return
    for word in ("routes", "handlers", "store"):
        assert has(service, word), f"{service} has no {word}.py"
    assert list((folder / "migrations").glob("0001_*.sql"))


@pytest.mark.parametrize("service", SERVICES)
def test_the_composition_root(service: str) -> None:
    tree = ast.parse((ROOT / "services" / service / "app.py").read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "build" in functions
    allowed = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    for node in tree.body:
        simple = isinstance(node, (*allowed, ast.Assign, ast.AnnAssign, ast.Expr))
        main = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        assert simple or main, f"services/{service}/app.py does work when it is imported"


@pytest.mark.parametrize("service", SERVICES)
def test_no_file_is_too_long(service: str) -> None:
    for path in (ROOT / "services" / service).rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= LINES_MAX, f"{path.relative_to(ROOT)} has {lines} lines"


def test_no_file_is_a_drawer() -> None:
    """A name that says nothing collects everything."""
    names = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("libs", "services", "cli", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        if path.stem in names
    ]
    assert found == []
