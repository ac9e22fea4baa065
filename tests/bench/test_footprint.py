"""How much memory the whole stack takes at rest; `make bench` prints it for docs/benchmarks.md."""

import asyncio
from pathlib import Path

import pytest

from deploy.local.stack import Stack
from tests.bench.processes import tree

LIMIT_MIB = 2_500
REST_SECONDS = 5

pytestmark = pytest.mark.flow


def proportional_kib(pid: int) -> int:
    """Memory of a process, shared pages counted by their share (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


async def test_the_whole_stack_at_rest_stays_under_its_limit(stack: Stack) -> None:
    await asyncio.sleep(REST_SECONDS)
    state = stack.state()
    assert state is not None
    figures = {"supervisor": sum(map(proportional_kib, [state.supervisor.pid]))}
    for program in state.programs:
        if program.pid:
            figures[program.name] = sum(proportional_kib(pid) for pid in tree(program.pid))
    total_mib = sum(figures.values()) / 1024
    for name, kib in sorted(figures.items(), key=lambda item: -item[1]):
        print(f"| {name} | {kib / 1024:.0f} |")
    print(f"| total | {total_mib:.0f} |")
    assert len(figures) > 10
    assert total_mib < LIMIT_MIB
