"""`python -m cli.generate`: write every generated file; with `--check` name those that are stale.

What is generated follows from the code alone: the same code gives the same bytes anywhere.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cli import (
    generate_apps,
    generate_caddyfile,
    generate_events,
    generate_openapi,
    generate_pages,
    generate_rules,
)

ROOT = Path(__file__).resolve().parents[1]

Files = Mapping[str, str]
"""Generated text by path from the repository's root."""


def generate() -> dict[str, str]:
    """Every generated file.

    Raises:
        ContradictionError: two services claim the same path.
    """
    apps = generate_apps.build_apps()
    files: dict[str, str] = {}
    parts: tuple[Callable[[], Files], ...] = (
        lambda: generate_openapi.files(apps),
        lambda: generate_caddyfile.files(apps),
        generate_events.files,
        generate_rules.files,
        lambda: generate_pages.files(apps),
    )
    for part in parts:
        files |= part()
    return files


def stale(files: Files, root: Path = ROOT) -> list[str]:
    """The paths whose text is not what would be generated now."""
    return sorted(path for path, text in files.items() if _read(root / path) != text)


def leftovers(files: Files, root: Path = ROOT) -> list[str]:
    """Files in generated folders that nothing generates any more."""
    folders = ("docs/events", "docs/services")
    found = [
        path.relative_to(root).as_posix()
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.is_file()
    ]
    return sorted(set(found) - set(files))


def write(files: Files, root: Path = ROOT) -> list[str]:
    """Write what is stale and remove what is left over; the paths that changed."""
    changed = stale(files, root)
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(files[path])
    removed = leftovers(files, root)
    for path in removed:
        (root / path).unlink()
    return sorted(changed + removed)


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def main(arguments: list[str] | None = None) -> int:
    """Write, or check; 1 where something was stale under `--check` or the services contradict."""
    parser = argparse.ArgumentParser(prog="python -m cli.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if anything would")
    check = parser.parse_args(arguments).check
    try:
        files = generate()
    except generate_apps.ContradictionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not check:
        for path in write(files):
            print(f"wrote {path}")
        return 0
    wrong = sorted(stale(files) + leftovers(files))
    for path in wrong:
        sys.stderr.write(f"{path} is stale\n")
    if wrong:
        sys.stderr.write("Run `make generate` and commit what it writes.\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
