"""Which programs of a stack cannot do their work at this moment, asked of each of them."""

import asyncio

from deploy.local.checks import is_ready
from deploy.local.process import is_alive
from deploy.local.program import DoneReady, Program, Programs, ProgramState, StackState


async def not_ready(programs: Programs, state: StackState) -> list[str]:
    """The names of the programs that are not ready now, in the order they start in."""
    states = {each.name: each for each in state.programs}
    known = [program for program in programs.programs if program.name in states]
    answers = await asyncio.gather(*(_can_work(program, states[program.name]) for program in known))
    return [program.name for program, ready in zip(known, answers, strict=True) if not ready]


async def _can_work(program: Program, state: ProgramState) -> bool:
    if isinstance(program.ready, DoneReady):
        return state.phase == "done"
    return (
        state.identity is not None
        and is_alive(state.identity)
        and await is_ready(program.ready, state.identity.pid)
    )
