"""Tenant scope: which rows a transaction may see.

Row-level security reads two settings that hold for one transaction: `app.tenants` and `app.mode`.
Where they are missing nothing is seen. `app.books` guards the ledger's tables.
"""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Mode = Literal["test", "live"]


@dataclass(frozen=True)
class Scope:
    """The tenants (usually one), the mode and the ledger books that a transaction may see.

    Attributes:
        mode: None sees no row that has a mode; identity rows have none.
        books: `platform`, `tenant`; a tenant's members never read book=platform.
    """

    tenants: tuple[UUID, ...] = ()
    mode: Mode | None = None
    books: tuple[str, ...] = ()

    @property
    def tenant_id(self) -> UUID:
        """The one tenant of this scope.

        Raises:
            AssertionError: the scope holds none or several.
        """
        assert len(self.tenants) == 1, "this work needs exactly one tenant in scope"
        return self.tenants[0]

    def settings(self) -> tuple[str, str, str]:
        """The values of app.tenants, app.mode and app.books."""
        return (
            ",".join(str(tenant) for tenant in self.tenants),
            self.mode or "",
            ",".join(self.books),
        )


NOBODY = Scope()

SET_SCOPE = """
select set_config('app.tenants', $1, true), set_config('app.mode', $2, true),
       set_config('app.books', $3, true)
"""
