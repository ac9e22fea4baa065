"""Strict readers of the two plain-text formats, after the programs' own grammars.

Neither program is among this project's dependencies (Beancount's licence is not ours, hledger is no
Python), so what they take is written down here: every line is one of the forms below or an error, and
what the programs check, balances, declarations and assertions, is checked. Where a program is
installed it is asked itself (`checker`).

Sources: beancount/parser/lexer.l and grammar.y of Beancount 3; "Journal" in hledger's manual, with the
checks of `hledger check --strict`.
"""

import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

_PROGRAMS = {
    "bean-check": ("bean-check",),
    "hledger": ("hledger", "check", "--strict", "--file"),
}

_ACCOUNT = r"(?:Assets|Liabilities|Equity|Income|Expenses)(?::[A-Z0-9][A-Za-z0-9-]*)+"
_DATE = r"[1-9]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_NUMBER = r"-?\d+(?:\.\d+)?"
_CURRENCY = r"[A-Z][A-Z0-9'._-]{0,22}[A-Z0-9]"
_STRING = r'"(?:\\.|[^"\\])*"'


def checker(program: str) -> list[str] | None:
    """The command that checks the file named after it; None where the program is not installed."""
    name, *arguments = _PROGRAMS[program]
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    return [found, *arguments] if found else None


@dataclass
class Transaction:
    """A transaction that was read; amounts by account and currency."""

    on: date
    told: str
    facts: dict[str, str] = field(default_factory=dict)
    amounts: list[tuple[str, Decimal, str]] = field(default_factory=list)


@dataclass
class Journal:
    """What a file says, and what its reader has checked.

    Attributes:
        places: decimals with which each currency was written.
        asserted: how many statements of what stands on an account held.
    """

    accounts: dict[str, str] = field(default_factory=dict)
    currencies: set[str] = field(default_factory=set)
    transactions: list[Transaction] = field(default_factory=list)
    places: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    asserted: int = 0

    def balances(self, before: date | None = None) -> dict[tuple[str, str], Decimal]:
        """The sums by account and currency, of the transactions before a day."""
        sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for transaction in self.transactions:
            if before is None or transaction.on < before:
                for account, amount, currency in transaction.amounts:
                    sums[account, currency] += amount
        return sums

    def add(self, account: str, number: str, currency: str) -> None:
        """A posting of the last transaction."""
        assert account in self.accounts, f"{account} is not declared"
        assert currency in self.currencies, f"{currency} is not declared"
        self.places[currency].add(len(number.partition(".")[2]))
        self.transactions[-1].amounts.append((account, Decimal(number), currency))

    def check_balanced(self) -> None:
        """Each transaction sums to zero in each currency."""
        for transaction in self.transactions:
            sums: dict[str, Decimal] = defaultdict(Decimal)
            for _, amount, currency in transaction.amounts:
                sums[currency] += amount
            assert not any(sums.values()), f"{transaction.told} does not balance"


_BEANCOUNT = {
    "comment": re.compile(r";.*"),
    "option": re.compile(rf'option "(?:title|operating_currency)" {_STRING}'),
    "commodity": re.compile(rf"({_DATE}) commodity ({_CURRENCY})"),
    "open": re.compile(rf"({_DATE}) open ({_ACCOUNT})"),
    "transaction": re.compile(rf"({_DATE}) \* ({_STRING})"),
    "metadata": re.compile(rf"  ([a-z][a-zA-Z0-9_-]+): ({_STRING})"),
    "posting": re.compile(rf"  ({_ACCOUNT})  ({_NUMBER}) ({_CURRENCY})"),
    "balance": re.compile(rf"({_DATE}) balance ({_ACCOUNT})  ({_NUMBER}) ({_CURRENCY})"),
}


def read_beancount(text: str) -> Journal:
    """A file as Beancount reads it."""
    journal, asserted, of = Journal(), [], ""
    for line in text.splitlines():
        kind, found = _form_of(line, _BEANCOUNT)
        match kind:
            case "":
                of = ""
            case "commodity":
                journal.currencies.add(found[2])
            case "open":
                assert found[2] not in journal.accounts, "opened twice"
                of = found[2]
                journal.accounts[of] = ""
            case "transaction":
                of = kind
                on = date.fromisoformat(found[1])
                journal.transactions.append(Transaction(on, _text(found[2])))
            case "metadata":
                _note(journal, of, found[1], _text(found[2]))
            case "posting":
                assert of == "transaction", "a posting of nothing"
                journal.add(found[1], found[2], found[3])
            case "balance":
                asserted.append(found)
    journal.check_balanced()
    for found in asserted:
        sums = journal.balances(before=date.fromisoformat(found[1]))
        assert sums[found[2], found[4]] == Decimal(found[3]), f"{found[0]} does not hold"
    journal.asserted = len(asserted)
    return journal


def _note(journal: Journal, of: str, name: str, value: str) -> None:
    """Metadata of what stands above it."""
    if of == "transaction":
        journal.transactions[-1].facts[name] = value
    else:
        assert (of in journal.accounts, name) == (True, "code")
        journal.accounts[of] = value


def _form_of(line: str, forms: Mapping[str, re.Pattern[str]]) -> tuple[str, Any]:
    """Which of the forms a line has; none where it is empty."""
    if not line:
        return "", None
    for kind, form in forms.items():
        found = form.fullmatch(line)
        if found:
            return kind, found
    raise AssertionError(f"no such form: {line!r}")


_HLEDGER = {
    "comment": re.compile(r";.*"),
    "mark": re.compile(r"decimal-mark \."),
    "commodity": re.compile(r"commodity 1000\.(\d*) ([A-Z]+)"),
    "account": re.compile(rf"account ({_ACCOUNT})  ; type:([ALERX]), code:(\S+)"),
    "transaction": re.compile(rf"({_DATE}) \* (?:\(([^)]*)\) )?([^;]*)"),
    "tag": re.compile(r"    ; ([a-z]+):([^,]*)"),
    "posting": re.compile(rf"    ({_ACCOUNT})  ({_NUMBER}) ([A-Z]+)(?: = ({_NUMBER}) ([A-Z]+))?"),
}


def read_hledger(text: str) -> Journal:
    """A file as hledger reads it, strictly."""
    journal, is_open = Journal(), False
    asserted: list[tuple[date, str, str, Decimal]] = []
    for line in text.splitlines():
        kind, found = _form_of(line, _HLEDGER)
        match kind:
            case "":
                is_open = False
            case "commodity":
                journal.currencies.add(found[2])
                journal.places[found[2]].add(len(found[1]))
            case "account":
                assert found[1] not in journal.accounts, "declared twice"
                journal.accounts[found[1]] = found[3]
            case "transaction":
                is_open = True
                made = Transaction(date.fromisoformat(found[1]), found[3])
                made.facts["entry"] = found[2] or ""
                journal.transactions.append(made)
            case "tag":
                assert is_open, "a tag of nothing"
                journal.transactions[-1].facts[found[1]] = found[2]
            case "posting":
                assert is_open, "a posting of nothing"
                journal.add(found[1], found[2], found[3])
                if found[4] is not None:
                    on = journal.transactions[-1].on
                    asserted.append((on, found[1], found[5], Decimal(found[4])))
    journal.check_balanced()
    for on, account, currency, amount in asserted:
        sums = journal.balances(before=on + timedelta(days=1))
        assert sums[account, currency] == amount, f"{account} is not {amount} {currency}"
    journal.asserted = len(asserted)
    return journal


def _text(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1])
