"""Which TCP ports of 127.0.0.1 are free, and what to say when one is not."""

import random
import socket
from collections.abc import Collection

from deploy.local.errors import StackError

HOST = "127.0.0.1"
ATTEMPTS = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now, on 127.0.0.1 and on every address."""
    for host in (HOST, ""):
        with socket.socket() as probe:
            # As servers do: a port whose last connections are in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
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
