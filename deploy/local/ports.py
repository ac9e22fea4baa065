"""Which TCP ports of 127.0.0.1 are free, and what to say when one is not."""

import asyncio
import errno
import os
import random
import socket
from collections.abc import Collection

from deploy.local.errors import StackError

HOST = "127.0.0.1"
ATTEMPTS = 200
CONNECT_TIMEOUT_SECONDS = 5


def obstacle(port: int) -> str | None:
    """Why a server could not listen on the port now, on 127.0.0.1 or on every address; None if it could."""
    for host in (HOST, ""):
        with socket.socket() as probe:
            # As servers do: a port whose last connections are in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return "is already in use by another program"
                return f"cannot be used: {os.strerror(error.errno or 0)}"
    return None


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    return obstacle(port) is None


async def takes_connections(port: int) -> bool:
    """Whether something listens on the port."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(HOST, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def next_free(start: int, taken: Collection[int] = ()) -> int:
    """The first free port from `start` on that is not in `taken`.

    Raises:
        StackError: none of the next 200 ports is free.
    """
    for port in range(start, min(start + ATTEMPTS, 65536)):
        if port not in taken and is_free(port):
            return port
    raise StackError(f"No free TCP port between {start} and {start + ATTEMPTS - 1}.")


def scratch_port() -> int:
    """A free port below the kernel's range for outgoing connections, so that none takes it meanwhile."""
    return next_free(random.SystemRandom().randrange(18000, 31000))


def parse_port(name: str, text: str) -> int:
    """A port number from a variable's text.

    Raises:
        StackError: it is not a number from 1 to 65535.
    """
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 65535:
        return int(text)
    raise StackError(f"{name} must be a port number from 1 to 65535, not {text!r}.")


class PortChooser:
    """Gives every server of a stack a port: what the user set stands, a default gives way."""

    def __init__(self) -> None:
        self._taken: dict[int, str] = {}

    def take_explicit(self, name: str, port: int) -> int:
        """Take exactly the port that the variable `name` sets.

        Raises:
            StackError: it is in use, or another variable sets the same one.
        """
        if port in self._taken:
            raise StackError(f"{name} and {self._taken[port]} both set port {port}. Change one.")
        if reason := obstacle(port):
            raise StackError(
                f"Port {port}, set by {name}, {reason}. Free it, set {name} to another one,"
                f" or unset {name}: then a free port is found."
            )
        self._taken[port] = name
        return port

    def take_default(self, name: str, default: int, previous: int | None) -> int:
        """Take the port of the last run if it is free, else the default, else the next free one.

        Raises:
            StackError: no port after the default is free.
        """
        candidates = [port for port in (previous, default) if port is not None]
        port = next(
            (each for each in candidates if each not in self._taken and is_free(each)), None
        ) or next_free(default, self._taken)
        self._taken[port] = name
        return port
