"""SQL is text of our own: what callers send travels as parameters (attack A11).

Row-level security cannot stop an injection, which would simply name another tenant. So every
statement is a constant, or is put together from constants; each exception stands here with the
reason why nothing from outside can reach it.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APART = ("libs/testing/", "libs/db/migrate.py", "services/stripe_sim/")
"""Tests, the deploy step (names of services only), and the sandbox, which has no database."""

METHODS = frozenset(
    {
        "execute",
        "executemany",
        "fetch",
        "fetchrow",
        "fetchval",
        "cursor",
        "copy_from_query",
    }
)

OUR_OWN: Mapping[tuple[str, str], str] = {
    ("services/metering/store_meters.py", "column"): "`id` or `key`, by the type of the reference",
    ("services/metering/store_rebuilds.py", "tx.service"): "the service's own name",
    (
        "services/metering/store_rebuilds.py",
        "row['relname']",
    ): "a table of the service's own schema",
    ("services/metering/store_rebuilds.py", "table"): "a key of the constant COMPARED",
    ("services/metering/store_rebuilds.py", "live"): "a constant with the service's own name in it",
    ("services/metering/store_rebuilds.py", "rebuilt"): "a constant with `pg_temp` in it",
    ("services/ledger/store_rebuilds.py", "tx.service"): "the service's own name",
    ("services/ledger/store_rebuilds.py", "sql"): "a constant with schemas of our own in it",
    ("services/ledger/store_rebuilds.py", "schema"): "the service's own name, or `pg_temp`",
    ("services/ledger/store_rebuilds.py", "_FOLD.format(schema=schema)"): "the same",
    ("services/ledger/store_rebuilds.py", "_LINKS.format(schema=schema)"): "the same",
    ("services/ledger/store_shadow.py", "tx.service"): "the service's own name",
    ("services/ledger/store_shadow.py", "row['relname']"): "a table of the service's own schema",
    ("services/ledger/store_shadow.py", "table"): "an element of the constant ANALYZED",
    ("services/ledger/store_shadow.py", "self._own(sql)"): "a statement whose calls name a schema",
    (
        "services/ledger/store_shadow.py",
        "_copy_of(row['definition'], tx.service, functions)",
    ): "a function or trigger of the service's own schema",
    (
        "services/metering/store_queries.py",
        "_parts_in(question)",
    ): "numbers of places, or `s.user_id`",
    ("services/metering/store_queries.py", "columns"): "constants of this module",
    ("services/metering/store_queries.py", "_from(table)"): "constants of this module",
    ("services/metering/store_queries.py", "_from('usage_rank')"): "a constant of this module",
    ("services/metering/store_levels.py", "lines.parts"): "numbers of places, or `s.user_id`",
    ("services/stripe_sync/store_money.py", "listed"): "one of four words",
    ("services/stripe_sync/store_money.py", "_ABOUT[listed]"): "a row of the constant table",
    ("services/tenants/store_connections.py", "columns"): "asserted to be among the constant ones",
    ("services/tenants/store_people.py", "tx.service"): "the service's own name",
    ("services/tenants/store_personal_data.py", "table"): "a row of the constant tuple",
    ("services/tenants/store_personal_data.py", "tx.service"): "the service's own name",
    ("services/tenants/store_sealed.py", "column.table"): "a row of the constant list of columns",
    ("services/tenants/store_sealed.py", "column.column"): "a row of the constant list of columns",
    ("services/tenants/store_sealed.py", "column.row_id"): "a row of the constant list of columns",
    ("services/tenants/store_sealed.py", "column.bound_row"): "a row of the constant list",
    ("services/tenants/store_sealed.py", "column.former_row"): "a row of the constant list",
    ("services/tenants/store_people.py", "table"): "a row of the constant table",
    ("services/tenants/store_people.py", "condition"): "a row of the constant table",
    ("libs/messaging/retention.py", "table"): "a row of RULES",
    ("libs/messaging/retention.py", "column"): "a row of RULES",
    ("libs/messaging/parked.py", "tx.service"): "the service's own name",
    ("libs/messaging/relay.py", "self._database.service"): "the service's own name",
    ("libs/db/pool.py", "self.service"): "the service's own name",
    ("libs/db/pool.py", "sql"): "the one place that passes statements on",
}

SESSION = re.compile(
    r"set_config\([^)]*\bfalse\)|pg_(try_)?advisory_lock\(|(?<!\w )\bset (session|role|search_path)\b"
    r"|\btemporary table\b|\b(un)?listen \w|\bwith hold\b",
    re.IGNORECASE,
)
"""What outlasts a transaction on its connection; see `libs/db/pool.py`: nobody would undo it."""

SETTING = re.compile(
    r"""(\A[fr]*['"]+|;)(\\n|\s)*set (?!local\b|constraints\b)\w+""", re.IGNORECASE
)
"""The same, of a statement as it stands in Python: any setting that is not the transaction's own."""

IN_FUNCTIONS = re.compile(
    r"set_config\([^)]*\bfalse\s*\)|pg_(try_)?advisory_lock\s*\(", re.IGNORECASE
)
"""The same, of functions that a migration makes: who calls them knows nothing of it."""

ENDED: Mapping[str, str] = {
    "libs/messaging/relay.py": "its connection is terminated, never given back",
    "services/ledger/exports_parquet.py": "an engine of its own, in the process and for one file",
    "services/ledger/store_shadow.py": "a shadow's connection is terminated",
    "services/metering/store_rebuilds.py": "likewise",
}


def interpolated(node: ast.expr) -> Iterator[str]:
    """What is put into a statement besides constants."""
    if isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and _is_constant(node.id)):
        return
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield from interpolated(part)
    elif isinstance(node, ast.FormattedValue):
        yield from interpolated(node.value)
    elif isinstance(node, ast.IfExp):
        yield from interpolated(node.body)
        yield from interpolated(node.orelse)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from interpolated(node.left)
        yield from interpolated(node.right)
    else:
        yield ast.unparse(node)


def _is_constant(name: str) -> bool:
    return name.isupper()


def statements(source: str) -> Iterator[ast.expr]:
    """The first argument of everything that may be a statement."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in METHODS
            and node.args
            # A `Sealer` prepares keys, not statements.
            and not ast.unparse(node.func.value).endswith("sealer")
        ):
            yield node.args[0]


def found_in(path: str, source: str) -> set[tuple[str, str]]:
    """Places of a file where something other than a constant goes into SQL."""
    return {(path, text) for sql in statements(source) for text in interpolated(sql)}


def test_only_words_of_our_own_go_into_sql() -> None:
    found: set[tuple[str, str]] = set()
    for folder in ("services", "libs"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if not path.startswith(APART):
                found |= found_in(path, file.read_text())
    # The Stripe client's `fetch` takes a client, not a statement.
    found = {each for each in found if each[1] not in ("self.api", "api")}
    assert sorted(found - OUR_OWN.keys()) == []
    assert sorted(OUR_OWN.keys() - found) == [], "excused in vain"


def outlasting(source: str) -> list[str]:
    """What a file's statements leave on their connection beyond the transaction."""
    texts = [ast.unparse(sql) for sql in statements(source)]
    found = [SESSION.search(text) or SETTING.search(text) for text in texts]
    return [each.group() for each in found if each]


def test_nothing_outlasts_a_transaction_on_a_pooled_connection() -> None:
    files = {
        path
        for folder in ("services", "libs")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if not (path := file.relative_to(ROOT).as_posix()).startswith(APART)
        and outlasting(file.read_text())
    }
    assert files == ENDED.keys()
    source = """
tx.execute("select set_config('app.tenants', $1, true), set_config('x', $2, false)")
tx.execute("set local role x")
tx.execute(f"set role {ROLE}")
tx.fetch("select pg_advisory_xact_lock(1), pg_advisory_lock(2)")
tx.execute("set constraints all deferred; set local jit = off")
tx.execute("update x set jit = 1")
tx.execute("set jit = off")
tx.execute("select 1; set timezone to 'UTC'")
"""
    assert outlasting(source) == [
        "set_config('x', $2, false)",
        "set role",
        "pg_advisory_lock(",
        "'set jit",
        "; set timezone",
    ]


def test_no_function_of_a_migration_leaves_something_on_its_caller_s_connection() -> None:
    files = [*ROOT.glob("services/*/migrations/*.sql"), *ROOT.glob("libs/**/migrations/*.sql")]
    assert len(files) > 50
    assert [file for file in files if IN_FUNCTIONS.search(file.read_text())] == []
    for bad in ("perform set_config('x', y,\n false);", "select pg_try_advisory_lock(1)"):
        assert IN_FUNCTIONS.search(bad)
    for good in ("perform set_config('x', y, true)", "select pg_advisory_xact_lock(1)"):
        assert not IN_FUNCTIONS.search(good)


def test_what_goes_into_sql_is_found() -> None:
    source = """
tx.fetch(f"select {COLUMNS} from t where {name}")
tx.execute("select " + word)
tx.fetchval("select %s" % word)
tx.execute("select {}".format(word))
tx.fetch(sql_of(request))
tx.fetch(f"select 1 {'for update' if lock else ''}")
"""
    assert found_in("x.py", source) == {
        ("x.py", "name"),
        ("x.py", "word"),
        ("x.py", "'select %s' % word"),
        ("x.py", "'select {}'.format(word)"),
        ("x.py", "sql_of(request)"),
    }
