"""What can go wrong for a caller; by default none of it is raised, only counted and logged."""


class SluiceClientError(Exception):
    """Anything this library raises; `code` is stable."""

    code = "sluice_client_error"


class InvalidEventError(SluiceClientError, ValueError):
    """The event cannot be written as JSON, or is over 64 KiB. Correct the call."""

    code = "invalid_event"


class BufferFullError(SluiceClientError):
    """The buffer holds as many events as it may; Sluice cannot be reached or is too slow."""

    code = "buffer_full"


class ClosedError(SluiceClientError):
    """The client was closed; make a new one."""

    code = "closed"
