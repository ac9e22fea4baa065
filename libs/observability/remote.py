"""Where the request that is being served came from; whatever is recorded on its way takes it here."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_ADDRESS: ContextVar[str | None] = ContextVar("remote_address", default=None)


@contextmanager
def serving(address: str | None) -> Generator[None, None, None]:
    """Within the block a request from this address is served."""
    token = _ADDRESS.set(address)
    try:
        yield
    finally:
        _ADDRESS.reset(token)


def remote_address() -> str | None:
    """The address of the caller; None where no request is served (consumers, jobs)."""
    return _ADDRESS.get()
