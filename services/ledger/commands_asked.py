"""What somebody asks for of a book, and what may become of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row
from libs.db.tenant import Mode
from services.ledger.entries import Entry

POST_RULE = "posted"
KEY_SPACE = "api:"


class RefusedError(ValueError):
    """An entry that is not booked.

    Attributes:
        source_key: of the entry.
    """

    def __init__(self, source_key: str) -> None:
        super().__init__(source_key)
        self.source_key = source_key


class OtherContentError(RefusedError):
    """The source key is booked with other content."""


class AccountError(RefusedError):
    """The entry names an account that does not take it."""

    def __init__(self, source_key: str, account: str) -> None:
        super().__init__(source_key)
        self.account = account


class UnopenedAccountError(AccountError):
    """The book has no such account."""


class FullAccountError(AccountError):
    """So much was booked on the account that only facts may be from now on."""


@dataclass(frozen=True)
class Command:
    """An entry that somebody asks for.

    Attributes:
        effective_at: when it holds.
        is_dated: whether the caller named that time; where it did not, another one is no other
            content.
        metadata: the caller's own words, without secrets and personal data.
        is_audited: whether staff or a person asks; what programs post is told by their commands.
        remote_address: where the request came from.
        trace: headers of the trace that the request belongs to.
    """

    tenant_id: UUID
    mode: Mode
    entry: Entry
    effective_at: datetime
    is_dated: bool
    metadata: Mapping[str, str]
    actor: str
    is_audited: bool = False
    remote_address: str | None = None
    trace: Mapping[str, str] | None = None

    @property
    def key(self) -> tuple[UUID, str]:
        """Whose entry it is, and which."""
        return self.tenant_id, self.entry.source_key

    def says(self, content_hash: bytes, effective_at: datetime, metadata: object) -> bool:
        """Whether it asks for what is booked with these."""
        return (
            self.entry.content_hash == content_hash
            and (not self.is_dated or self.effective_at == effective_at)
            and dict(self.metadata) == metadata
        )


@dataclass(frozen=True)
class Posted:
    """The entry that stands in the book for a command.

    Attributes:
        is_new: whether it was booked now rather than before.
    """

    row: Row
    postings: Sequence[Row]
    is_new: bool = False


Group = Sequence[Command]
"""Commands that are booked all or none."""

Verdict = list[Posted] | Exception
"""What became of a group: the entry of each of its commands, or why there is none."""

Key = tuple[UUID, str]
"""Tenant and source key: which entry, in the book at hand."""
