"""State: every object in memory for reading, and in SQLite so that it survives a kill.

One writer, one thread. A request changes objects and calls `save`; `commit` writes all that was
saved in one SQLite transaction before the request is answered; `rollback` puts back what stood
there before. Objects are plain dictionaries in the shape the API returns; what the sandbox keeps
for itself stands under the key `_sim` and never leaves.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Obj = dict[str, Any]
Key = tuple[str, str, str]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    account TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    seq INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (account, kind, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answer (
    account TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL, body BLOB NOT NULL, request_id TEXT NOT NULL, created INTEGER NOT NULL,
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Store:
    """Objects by account, kind and id, in the order they were created."""

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(str(path) if path else ":memory:", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # survives kill -9; a power cut may cost ms
        self._db.executescript(_SCHEMA)
        self._objects: dict[str, dict[str, dict[str, Obj]]] = {}
        self._kind_of: dict[str, dict[str, str]] = {}
        self._seq: dict[Key, int] = {}
        self._dirty: dict[Key, None] = {}
        self._answers: list[tuple[Any, ...]] = []
        self._settings: dict[str, str] = {}
        self._settings_dirty: set[str] = set()
        self._last_seq = 0
        self._load()

    def _load(self) -> None:
        for name, value in self._db.execute("SELECT name, value FROM setting"):
            self._settings[name] = value
        rows = self._db.execute("SELECT account, kind, id, seq, body FROM object ORDER BY seq")
        for account, kind, object_id, seq, body in rows:
            self._place((account, kind, object_id), json.loads(body))
            self._seq[account, kind, object_id] = seq
            self._last_seq = seq

    def _place(self, key: Key, obj: Obj) -> None:
        account, kind, object_id = key
        self._objects.setdefault(account, {}).setdefault(kind, {})[object_id] = obj
        self._kind_of.setdefault(account, {})[object_id] = kind

    def _drop(self, key: Key) -> None:
        account, kind, object_id = key
        self._objects.get(account, {}).get(kind, {}).pop(object_id, None)
        self._kind_of.get(account, {}).pop(object_id, None)

    def accounts(self) -> list[str]:
        """Return the ids of all accounts that own anything."""
        return list(self._objects)

    def get(self, account: str, kind: str, object_id: str) -> Obj | None:
        """Return an object of this account, or None."""
        return self._objects.get(account, {}).get(kind, {}).get(object_id)

    def find(self, account: str, object_id: str) -> Obj | None:
        """Return an object of this account by its id alone."""
        kind = self._kind_of.get(account, {}).get(object_id)
        return None if kind is None else self.get(account, kind, object_id)

    def all(self, account: str, kind: str) -> list[Obj]:
        """Return the account's objects of a kind, oldest first."""
        return list(self._objects.get(account, {}).get(kind, {}).values())

    def everywhere(self, kind: str) -> Iterator[tuple[str, Obj]]:
        """Yield (account, object) for a kind over all accounts, oldest first in each."""
        for account in list(self._objects):
            for obj in self.all(account, kind):
                yield account, obj

    def seq(self, account: str, obj: Obj) -> int:
        """Return the place of an object in the order of creation."""
        return self._seq[account, obj["object"], obj["id"]]

    def save(self, account: str, obj: Obj) -> None:
        """Mark an object, new or changed, to be written by the next commit."""
        key = (account, obj["object"], obj["id"])
        if key not in self._seq:
            self._last_seq += 1
            self._seq[key] = self._last_seq
        self._place(key, obj)
        self._dirty[key] = None

    def remove(self, account: str, obj: Obj) -> None:
        """Delete an object."""
        key = (account, obj["object"], obj["id"])
        self._drop(key)
        self._dirty[key] = None

    def setting(self, name: str, default: str) -> str:
        """Return a stored value of the sandbox itself, such as its id counter."""
        return self._settings.get(name, default)

    def set_setting(self, name: str, value: str) -> None:
        """Store a value of the sandbox itself with the next commit."""
        self._settings[name] = value
        self._settings_dirty.add(name)

    def answer(self, account: str, key: str) -> tuple[str, int, bytes, str] | None:
        """Return (fingerprint, status, body, request id) kept under an idempotency key."""
        row: tuple[str, int, bytes, str] | None = self._db.execute(
            "SELECT fingerprint, status, body, request_id FROM answer "
            "WHERE account = ? AND key = ?",
            (account, key),
        ).fetchone()
        return row

    def keep_answer(
        self, account: str, key: str, answer: tuple[str, int, bytes, str], created: int
    ) -> None:
        """Keep (fingerprint, status, body, request id) with the next commit."""
        self._answers.append((account, key, *answer, created))

    def prune_answers(self, before: int) -> None:
        """Forget answers older than a Unix time."""
        self._db.execute("DELETE FROM answer WHERE created < ?", (before,))

    def commit(self) -> None:
        """Write everything saved since the last commit in one transaction."""
        if not (self._dirty or self._answers or self._settings_dirty):
            return
        written, removed = [], []
        for key in self._dirty:
            obj = self.get(*key)
            if obj is None:
                removed.append(key)
                self._seq.pop(key, None)
            else:
                written.append((*key, self._seq[key], json.dumps(obj, separators=(",", ":"))))
        self._db.execute("BEGIN")
        try:
            self._db.executemany("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?)", written)
            self._db.executemany(
                "DELETE FROM object WHERE account = ? AND kind = ? AND id = ?", removed
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?, ?, ?)", self._answers
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO setting VALUES (?, ?)",
                [(name, self._settings[name]) for name in self._settings_dirty],
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._forget_pending()

    def rollback(self) -> None:
        """Put every object saved since the last commit back to what was committed."""
        for key in self._dirty:
            row = self._db.execute(
                "SELECT body FROM object WHERE account = ? AND kind = ? AND id = ?", key
            ).fetchone()
            if row is None:
                self._drop(key)
                self._seq.pop(key, None)
            else:
                self._place(key, json.loads(row[0]))
        self._forget_pending()

    def _forget_pending(self) -> None:
        self._dirty.clear()
        self._answers.clear()
        self._settings_dirty.clear()

    def wipe(self, keep_settings: Iterable[str]) -> None:
        """Delete all objects and answers, and every setting not named."""
        kept = {name: self._settings[name] for name in keep_settings if name in self._settings}
        self._db.executescript("DELETE FROM object; DELETE FROM answer; DELETE FROM setting;")
        self._objects.clear()
        self._kind_of.clear()
        self._seq.clear()
        self._forget_pending()
        self._settings = kept
        self._settings_dirty = set(kept)
        self.commit()

    def close(self) -> None:
        """Commit what is pending and close the file."""
        self.commit()
        self._db.close()
