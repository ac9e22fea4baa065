"""What the laptop stack says when it cannot do its work."""


class StackError(Exception):
    """The stack cannot start, stop or answer; the message says what to do about it.

    Attributes:
        details: lines of a program's log that show the cause, oldest first.
    """

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details
