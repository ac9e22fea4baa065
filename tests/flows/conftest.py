"""The order of the flows, whatever order the run has drawn."""

import pytest

LAST = "test_hostile_records.py"
AFTERWARDS = "test_afterwards_"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look at what a module left behind after its other tests; and send hostile records last.

    Records that cannot be read stay on their topics, and every replay puts them aside anew. So the
    flows that replay a shared stack and want every table equal must be over by then.
    """
    modules = {path: place for place, path in enumerate(dict.fromkeys(i.path for i in items))}
    items.sort(
        key=lambda item: (
            item.path.name == LAST,
            modules[item.path],
            item.name.startswith(AFTERWARDS),
        )
    )
