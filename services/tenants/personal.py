"""People's e-mails and names: sealed on their way in, opened on their way out, nowhere in the clear.

The composition root unlocks them once per process; stores call `keys()`.
"""

from typing import Any

from libs.crypto.personal import Fields, PersonalKeys
from libs.db.pool import Row

_UNLOCKED: list[PersonalKeys] = []


def unlock(pepper: bytes) -> None:
    """Let this process read and write personal data; called by `app.build`."""
    _UNLOCKED[:] = [PersonalKeys(pepper)]


def keys() -> PersonalKeys:
    """What personal data of this installation is sealed, opened and found with."""
    assert _UNLOCKED, "app.build unlocks personal data"
    return _UNLOCKED[0]


def opened(row: Row) -> dict[str, Any]:
    """A row of a person with `email` and `name` in the clear instead of what they are sealed in.

    Both are None of a person that was erased. A row from before sealing has them already.
    """
    person = dict(row)
    sealed, wrapped = person.pop("personal"), person.pop("wrapped")
    if sealed is not None and wrapped is not None:
        fields = keys().open(bytes(sealed), bytes(wrapped), person["user_id"])
        person["email"], person["name"] = fields["email"], fields["name"]
    return person


def of_account(email: str, name: str | None) -> Fields:
    """What is sealed of an account."""
    return {"email": email, "name": name}
