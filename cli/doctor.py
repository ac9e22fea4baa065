"""Looking for whatever would keep the stack from working, and saying what to do about it."""

import asyncio
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import asyncpg

from cli.status import read_status
from deploy.local import caddy, kafka, postgres
from deploy.local.disk import LATER_START_MB, MB
from deploy.local.errors import StackError
from deploy.local.folders import CACHE
from deploy.local.jars import checksums, jar_folder
from deploy.local.ports import HOST, takes_connections
from deploy.local.stack import Stack
from libs.settings import ConfigurationError, ServiceSettings, StripeSettings, read

PYTHON_MIN = (3, 11)
MEMORY_MIN_MB = 3 * 1024
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        advice: what to do where it is not well; empty where it is.
    """

    subject: str
    well: bool
    detail: str
    advice: str = ""


class _EverySetting(StripeSettings, ServiceSettings):
    """Whatever any service reads, so that one look checks the whole configuration."""

    service: ClassVar[str] = "gateway"


def examine(stack: Stack) -> list[Finding]:
    """Everything that can be looked at without changing anything."""
    return [
        *_machine(stack),
        *_packages(),
        *_environment(stack),
        *asyncio.run(_running(stack)),
    ]


def _machine(stack: Stack) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "Python",
        sys.version_info >= PYTHON_MIN,
        version,
        "" if sys.version_info >= PYTHON_MIN else "Use Python 3.11 or newer.",
    )
    root = stack.folders.root if stack.folders.root.exists() else stack.folders.root.parent
    free_mb = shutil.disk_usage(root).free // MB
    roomy = free_mb >= LATER_START_MB
    yield Finding("disk", roomy, f"{free_mb} MB free", "" if roomy else "Free some space.")
    available_mb = _available_memory_mb()
    supervised = stack.is_supervised()
    enough = supervised or available_mb >= MEMORY_MIN_MB
    advice = "" if enough else f"The stack needs about {MEMORY_MIN_MB} MB; close other programs."
    yield Finding("memory", enough, f"{available_mb} MB available", advice)


def _available_memory_mb() -> int:
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def _packages() -> Iterator[Finding]:
    for name, find in (
        ("Postgres", postgres.binaries),
        ("Java", kafka.java),
        ("Caddy", caddy.binary),
    ):
        try:
            find()
        except StackError as error:
            yield Finding(name, well=False, detail="not installed", advice=str(error))
        else:
            yield Finding(name, well=True, detail="installed")
    folder = jar_folder(CACHE)
    missing = [name for name in checksums() if not (folder / name).exists()]
    detail = f"{len(missing)} of {len(checksums())} jars not fetched yet" if missing else "fetched"
    yield Finding("Kafka", well=True, detail=detail)


def _environment(stack: Stack) -> Iterator[Finding]:
    env = stack.folders.env
    if not env.exists():
        yield Finding(
            "environment", well=True, detail="no .local/env yet; the first start writes it"
        )
        return
    mode = stat.S_IMODE(env.stat().st_mode)
    private = mode & 0o077 == 0
    advice = "" if private else f"Run `chmod 600 {env}`: the file holds secrets."
    yield Finding("environment", private, f"{env}, mode {mode:04o}", advice)
    before = dict(os.environ)
    try:
        os.environ.update({**stack.environment(), **before})
        read(_EverySetting)
    except ConfigurationError as error:
        for problem in error.problems:
            yield Finding("configuration", well=False, detail="", advice=problem)
    else:
        yield Finding("configuration", well=True, detail="complete")
    finally:
        os.environ.clear()
        os.environ.update(before)


async def _running(stack: Stack) -> list[Finding]:
    environment, state = stack.environment(), stack.state()
    if state is None:
        return [Finding("stack", well=True, detail="not running", advice="Run `make up`.")]
    if not stack.is_supervised():
        advice = "Run `make up`: it ends what is left and starts anew."
        return [Finding("stack", well=False, detail="its supervisor is gone", advice=advice)]
    findings = []
    bootstrap = environment["SLUICE_KAFKA"]
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    if host == HOST:
        answers = await takes_connections(int(port))
        findings.append(
            Finding(
                "Kafka server", answers, bootstrap, "" if answers else "Run `sluice logs kafka`."
            )
        )
    try:
        connection = await asyncpg.connect(environment["SLUICE_POSTGRES"], timeout=10)
        version = await connection.fetchval("show server_version")
        await connection.close()
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        findings.append(
            Finding(
                "Postgres server",
                well=False,
                detail=str(error),
                advice="Run `sluice logs postgres`.",
            )
        )
    else:
        findings.append(Finding("Postgres server", well=True, detail=f"version {version}"))
    status = await read_status(stack)
    for program in status.programs:
        ready = program.name not in status.not_ready
        detail = program.phase + (
            f", restarted {program.restarts} times" if program.restarts else ""
        )
        advice = "" if ready else f"Run `sluice logs {program.name}`."
        findings.append(Finding(program.name, ready, detail, advice))
    return findings
