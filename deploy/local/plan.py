"""Which programs make up a stack, in which order they start, and what each of them is given."""

import hashlib
import os
import signal
import sys
from collections.abc import Iterable, Mapping

from deploy.local import caddy, kafka, postgres
from deploy.local.environment import SERVICE_PORTS, WITHOUT_SCHEMA, Settled
from deploy.local.folders import CACHE, REPOSITORY, Folders
from deploy.local.jars import Report
from deploy.local.program import (
    DoneReady,
    HttpReady,
    KafkaReady,
    PostgresReady,
    Program,
    Programs,
    TcpReady,
)

SERVERS, DEPLOY, SANDBOX, SERVICES, ORIGIN = range(5)
CODE = {".py", ".sql", ".html"}
# What a program may know of the shell that started the stack.
INHERITED = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)


def services_present() -> list[str]:
    """The services that can be started: those of the table that have an `app.py`."""
    folder = REPOSITORY / "services"
    return [name for name in SERVICE_PORTS if (folder / name / "app.py").exists()]


def code_version() -> str:
    """A digest of the code that services run: a consumer that a bad version stopped runs a new one."""
    digest = hashlib.sha256()
    for folder in ("services", "libs"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in CODE:
                digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def plan(
    folders: Folders,
    settled: Settled,
    services: Iterable[str],
    *,
    extra_environment: Mapping[str, str],
    report: Report,
) -> Programs:
    """Prepare every server's files and say how each program is run.

    Raises:
        StackError: a package is missing, or a server's files cannot be prepared.
    """
    values = settled.env.values
    shell = {name: os.environ[name] for name in INHERITED if name in os.environ}
    version = code_version()
    common = {
        **shell,
        "PYTHONUNBUFFERED": "1",
        "SLUICE_METERING_ARCHIVE": str(folders.usage_archive.absolute()),
        "SLUICE_CODE_VERSION": version,
        **values,
        **extra_environment,
    }
    programs = []
    if settled.own_postgres:
        programs.append(_postgres(folders, values))
    if settled.own_kafka:
        programs.append(_kafka(folders, values, report))
    if (REPOSITORY / "libs" / "deploy.py").exists():
        programs.append(_deploy(common))
    wanted = set(services)
    for service in SERVICE_PORTS:
        if service in wanted and (settled.sandbox or service != "stripe_sim"):
            programs.append(_service(service, common))
    if caddy.CADDYFILE.exists():
        programs.append(_origin(folders, values))
    return Programs(programs=programs, code_version=version)


def _postgres(folders: Folders, values: Mapping[str, str]) -> Program:
    return Program(
        name="postgres",
        stage=SERVERS,
        command=postgres.server_command(folders.postgres, int(values["SLUICE_POSTGRES_PORT"])),
        folder=folders.postgres,
        environment={"PATH": os.defpath, "TZ": "UTC"},
        user=postgres.operating_user(),
        private_folder=folders.postgres,
        stop_signal=signal.SIGINT,  # fast shutdown: connections are ended, data is flushed
        stop_seconds=30,
        ready=PostgresReady(data=folders.postgres),
    )


def _kafka(folders: Folders, values: Mapping[str, str], report: Report) -> Program:
    port, controller = int(values["SLUICE_KAFKA_PORT"]), int(values["SLUICE_KAFKA_CONTROLLER_PORT"])
    files = kafka.prepare(folders.kafka, kafka.install(CACHE, report), port, controller)
    return Program(
        name="kafka",
        stage=SERVERS,
        command=kafka.server_command(files),
        folder=folders.kafka,
        environment={"PATH": os.defpath, "TZ": "UTC"},
        private_folder=folders.kafka,
        stop_seconds=30,
        start_seconds=120,
        ready=KafkaReady(port=port),
    )


def _deploy(common: Mapping[str, str]) -> Program:
    return Program(
        name="deploy",
        stage=DEPLOY,
        command=[sys.executable, "-m", "libs.deploy"],
        folder=REPOSITORY,
        environment=dict(common),
        start_seconds=180,
        ready=DoneReady(),
    )


def _service(service: str, common: Mapping[str, str]) -> Program:
    return Program(
        name=service,
        stage=SANDBOX if service == "stripe_sim" else SERVICES,
        command=[sys.executable, "-m", f"services.{service}.app"],
        folder=REPOSITORY,
        environment=_without_foreign_logins(service, common),
        start_seconds=120,
        ready=HttpReady(port=int(common[f"SLUICE_{service.upper()}_PORT"])),
    )


def _without_foreign_logins(service: str, common: Mapping[str, str]) -> dict[str, str]:
    """A service is given its own login to Postgres only: neither another's nor the administrator's."""
    foreign = {"SLUICE_POSTGRES"} | {
        f"SLUICE_{other.upper()}_POSTGRES"
        for other in SERVICE_PORTS
        if other != service and other not in WITHOUT_SCHEMA
    }
    return {name: value for name, value in common.items() if name not in foreign}


def _origin(folders: Folders, values: Mapping[str, str]) -> Program:
    variables = caddy.environment(values, folders.caddy)
    return Program(
        name="caddy",
        stage=ORIGIN,
        command=caddy.prepare(folders.caddy, variables),
        folder=folders.caddy,
        environment=variables,
        private_folder=folders.caddy,
        ready=TcpReady(port=int(values["SLUICE_ORIGIN_PORT"])),
    )
