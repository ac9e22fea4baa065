"""A watcher that ends a program when whoever started it is gone, however it went.

`python -m deploy.local.guard PID STARTED_TICKS BOOT_ID SIGNAL FOLDER` waits until its standard
input, a pipe whose other end the starter holds, is closed: the kernel does that even when the
starter is killed. Then it ends the program and everything of it.
"""

import signal
import sys
from pathlib import Path

from deploy.local.process import ProcessIdentity, end


def main(arguments: list[str]) -> None:
    """Wait for the starter's end, then end the program named by the arguments."""
    pid, started_ticks, boot_id, signal_number, folder = arguments
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end(
        ProcessIdentity(int(pid), int(started_ticks), boot_id),
        stop_signal=int(signal_number),
        timeout_seconds=10,
        private_folder=Path(folder) if folder else None,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
