"""Imports that follow from a file's name, read from the source text.

app over routes, handlers and jobs over nouns over store; a noun knows no framework. A store may use
the words of a noun that is pure, that is, one that uses no store itself. A file that was split keeps its first word: `routes_plans.py` is routes, `store_plans.py` is store.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

LEVELS = {"app": 3, "routes": 2, "bodies": 2, "answers": 2, "handlers": 2, "jobs": 2, "store": 0}
"""`bodies` and `answers` are the shapes that several files of routes share."""

NOUN = 1
FREE = {"settings"}
"""Read by the composition root and by whatever a setting is about."""

FRAMEWORKS = {"fastapi", "starlette", "uvicorn", "faststream"}
FRAMEWORK_LEVELS = {"app", "routes", "bodies", "answers"}
PAGES = {"console"}
"""Its nouns are pages and their client: the framework is their subject."""


def kind_of(module: str) -> str:
    """The first word of a file's name when it is one of the fixed ones, else `noun`."""
    word = module.split("_", 1)[0]
    return word if word in LEVELS else "noun"


def level_of(module: str) -> int:
    """Where a file stands; a file may import from its own level and below."""
    return LEVELS.get(kind_of(module), NOUN)


def imported(source: str) -> Iterator[str]:
    """The dotted names that a source text imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_faults(folder: Path, services: Iterable[str]) -> list[str]:
    """Imports upwards, and frameworks where decisions are made."""
    faults = []
    for service in services:
        imports = {
            path.stem: set(imported(path.read_text()))
            for path in sorted((folder / service).glob("*.py"))
            if path.stem != "__init__"
        }
        own = {module: _own(service, names) & set(imports) for module, names in imports.items()}
        pure = {
            m for m, used in own.items() if not any(kind_of(other) == "store" for other in used)
        }
        for module, used in own.items():
            may = (
                FREE | {module} | (pure if kind_of(module) == "store" or module in FREE else set())
            )
            faults += [
                f"{service}/{module}.py imports {other}.py, which stands above it"
                for other in sorted(used)
                if level_of(other) > level_of(module)
                and not (other in may and level_of(other) <= NOUN)
            ]
            if service in PAGES or kind_of(module) in FRAMEWORK_LEVELS:
                continue
            frameworks = sorted({name.split(".")[0] for name in imports[module]} & FRAMEWORKS)
            faults += [f"{service}/{module}.py knows the framework {name}" for name in frameworks]
    return faults


def _own(service: str, names: Iterable[str]) -> set[str]:
    """The modules of the service itself among imported names.

    `from services.x import store` gives `services.x.store` as `import services.x.store` does.
    """
    return {name.split(".")[2] for name in names if name.startswith(f"services.{service}.")}
