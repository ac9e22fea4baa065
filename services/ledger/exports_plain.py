"""A book as plain-text accounting: a journal that hledger or Beancount reads.

Amounts are decimal text with exactly the places that ISO 4217 gives the currency. An account's name
follows from its code, and its code from the name: both programs want names that begin with capitals,
and Beancount takes no underscores.

    asset:stripe_clearing:acct_1  ->  Assets:Stripe-clearing:Acct-1
    revenue:flat                  ->  Income:Flat

Sources: https://beancount.github.io/docs/beancount_language_syntax.html,
https://hledger.org/hledger.html#journal.
"""

import itertools
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import date, timedelta
from typing import Any

from libs.clock import format_time
from libs.db.pool import Row
from libs.ids import public_id
from libs.money import exponent_of
from services.ledger.exports import Export, PlainFormat

OPENED_ON = "1970-01-01"
"""Before any entry: a late one may hold earlier than what is in the file already."""

_ROOTS = {
    "asset": "Assets",
    "liability": "Liabilities",
    "equity": "Equity",
    "revenue": "Income",
    "expense": "Expenses",
}
_TYPES = {name: root for root, name in _ROOTS.items()}
_HLEDGER_TYPES = {"asset": "A", "liability": "L", "equity": "E", "revenue": "R", "expense": "X"}
_AS_IT_IS = "0-"
"""Begins a part whose first letter was none that could be made a capital."""


def name_of(code: str) -> str:
    """The name of an account of the chart."""
    root, *parts = code.split(":")
    return ":".join([_ROOTS[root], *map(_name_part, parts)])


def code_of(name: str) -> str:
    """The code of the account of this name."""
    root, *parts = name.split(":")
    return ":".join([_TYPES[root], *map(_code_part, parts)])


def _name_part(part: str) -> str:
    name = part.replace("_", "-")
    if part[0].islower():
        return name[0].upper() + name[1:]
    return name if part[0].isdigit() and not name.startswith(_AS_IT_IS) else _AS_IT_IS + name


def _code_part(name: str) -> str:
    if name.startswith(_AS_IT_IS):
        return name.removeprefix(_AS_IT_IS).replace("-", "_")
    part = name.replace("-", "_")
    return part[0].lower() + part[1:] if part[0].isupper() else part


def amount_of(amount_minor: int, currency: str) -> str:
    """Whole minor units as decimal text with its commodity, exactly: `-1234.50 EUR`."""
    places = exponent_of(currency)
    digits = f"{abs(amount_minor):0{places + 1}d}"
    whole, fraction = (digits[:-places], "." + digits[-places:]) if places else (digits, "")
    return f"{'-' if amount_minor < 0 else ''}{whole}{fraction} {currency}"


async def journal_of(
    export: Export, plain_format: PlainFormat, title: str
) -> AsyncGenerator[str, None]:
    """The journal: declarations, a transaction per entry, and what the book says stands at the end.

    The end is there only where the whole book is in the file. The program that reads it adds up the
    amounts itself and says where that is not what the book says.
    """
    write = _Hledger() if plain_format == "hledger" else _Beancount()
    yield write.head(title, export.currencies, [row["code"] for row in export.accounts])
    last_day = date.min
    balances: dict[tuple[str, str], int] = {}
    async for rows in export.pages():
        texts = []
        for _, of_entry in itertools.groupby(rows, key=lambda row: row["chain_seq"]):
            postings = list(of_entry)
            texts.append(write.transaction(postings))
            last_day = max(last_day, postings[0]["effective_at"].date())
        for row in rows:
            balances[row["account"], row["currency"]] = row["balance_after_minor"]
        yield "".join(texts)
    if export.is_whole and balances:
        yield write.end(last_day, sorted(balances.items()))


class _Beancount:
    """Beancount's words."""

    def head(self, title: str, currencies: Iterable[str], codes: Iterable[str]) -> str:
        lines = [";; -*- mode: beancount; coding: utf-8 -*-", f'option "title" {_quoted(title)}']
        lines += [f'option "operating_currency" "{currency}"' for currency in currencies]
        lines += ["", *(f"{OPENED_ON} commodity {currency}" for currency in currencies), ""]
        for code in codes:
            lines += [f"{OPENED_ON} open {name_of(code)}", f"  code: {_quoted(code)}"]
        return "\n".join(lines) + "\n\n"

    def transaction(self, postings: Sequence[Row]) -> str:
        first = postings[0]
        lines = [f"{first['effective_at'].date()} * {_quoted(first['source_key'])}"]
        lines += [f"  {name}: {_quoted(value)}" for name, value in _facts_of(first)]
        lines += [f"  {name_of(row['account'])}  {_signed(row)}" for row in postings]
        return "\n".join(lines) + "\n\n"

    def end(self, last_day: date, balances: Iterable[tuple[tuple[str, str], int]]) -> str:
        if last_day == date.max:
            return ""
        # A balance holds at the beginning of its day.
        day = last_day + timedelta(days=1)
        return "".join(
            f"{day} balance {name_of(code)}  {amount_of(amount, currency)}\n"
            for (code, currency), amount in balances
        )


class _Hledger:
    """hledger's words."""

    def head(self, title: str, currencies: Iterable[str], codes: Iterable[str]) -> str:
        lines = [f"; {_plain(title)}", "decimal-mark .", ""]
        for currency in currencies:
            # The directive wants a decimal mark, also where there are no decimals.
            places = exponent_of(currency)
            lines.append(f"commodity 1000.{'0' * places} {currency}")
        lines.append("")
        for code in codes:
            kind = _HLEDGER_TYPES[code.split(":")[0]]
            lines.append(f"account {name_of(code)}  ; type:{kind}, code:{code}")
        return "\n".join(lines) + "\n\n"

    def transaction(self, postings: Sequence[Row]) -> str:
        first = postings[0]
        (_, entry_id), *facts = _facts_of(first)
        told = _plain(first["source_key"])
        lines = [f"{first['effective_at'].date()} * ({entry_id}) {told}"]
        lines += [f"    ; {name}:{value}" for name, value in facts]
        lines += [f"    {name_of(row['account'])}  {_signed(row)}" for row in postings]
        return "\n".join(lines) + "\n\n"

    def end(self, last_day: date, balances: Iterable[tuple[tuple[str, str], int]]) -> str:
        lines = [f"{last_day} * What stands on each account"]
        for (code, currency), amount in balances:
            nothing, stands = amount_of(0, currency), amount_of(amount, currency)
            lines.append(f"    {name_of(code)}  {nothing} = {stands}")
        return "\n".join(lines) + "\n"


def _facts_of(row: Row) -> list[tuple[str, str]]:
    """What an entry says of itself besides its postings; its id first."""
    facts = [
        ("entry", public_id("entry", row["id"])),
        ("number", str(row["chain_seq"])),
        ("effective", format_time(row["effective_at"])),
        ("booked", format_time(row["booked_at"])),
        ("rule", f"{row['rule']} {row['rule_version']}"),
    ]
    if row["reverses"]:
        facts.append(("reverses", public_id("entry", row["reverses"])))
    if row["belongs_to"]:
        facts.append(("belongs", row["belongs_to"]))
    return facts


def _signed(row: Row) -> str:
    amount = row["amount_minor"]
    return amount_of(amount if row["side"] == "debit" else -amount, row["currency"])


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _quoted(value: Any) -> str:
    """A string of Beancount's, on one line."""
    text = _printable(str(value)).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _plain(text: str) -> str:
    """Text of hledger's, on one line; a semicolon would begin a comment."""
    return _printable(text).replace(";", ",").strip()
