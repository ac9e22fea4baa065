"""Benchmarks are run by `make bench`; of them `make test` takes the footprint alone, which has a limit."""

from pathlib import Path

import pytest

LIMITED = {"test_footprint.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what measures and asserts no figure."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.path.name not in LIMITED:
            item.add_marker(pytest.mark.bench)
