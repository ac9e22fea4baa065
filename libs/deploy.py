"""The one deploy step: roles, schemas, migrations, topics. Running it again changes nothing.

`python -m libs.deploy` reads SLUICE_POSTGRES, SLUICE_KAFKA and each service's SLUICE_<NAME>_POSTGRES.
"""

import asyncio
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import asyncpg

from libs.db.migrate import (
    ROOT,
    MigrationError,
    ensure_service_role,
    ensure_shared_roles,
    migrate,
    password_of,
)
from libs.messaging.create_topics import create_topics


def services_with_schema(root: Path = ROOT) -> list[str]:
    """The services that keep state: those with a folder of migrations."""
    return sorted(path.parent.name for path in (root / "services").glob("*/migrations"))


async def deploy_postgres(
    admin_dsn: str, service_dsns: Mapping[str, str], services: Iterable[str]
) -> None:
    """Create roles and schemas and apply the migrations of these services."""
    admin = await asyncpg.connect(admin_dsn, timeout=10)
    try:
        await ensure_shared_roles(admin)
        for service in services:
            await ensure_service_role(admin, service, password_of(service_dsns[service]))
            for name in await migrate(admin, service):
                print(f"migrated {name}")  # noqa: T201
    finally:
        await admin.close()


async def deploy(environment: Mapping[str, str]) -> None:
    """Postgres first, then Kafka's topics."""
    services = services_with_schema()
    dsns = {name: environment[f"SLUICE_{name.upper()}_POSTGRES"] for name in services}
    await deploy_postgres(environment["SLUICE_POSTGRES"], dsns, services)
    for name in await create_topics(environment["SLUICE_KAFKA"]):
        print(f"created topic {name}")  # noqa: T201


def main() -> int:
    """Deploy and say what failed."""
    try:
        asyncio.run(deploy(os.environ))
    except KeyError as missing:
        print(f"set {missing.args[0]}: the deploy step needs it", file=sys.stderr)  # noqa: T201
        return 2
    except (MigrationError, OSError, asyncpg.PostgresError) as error:
        print(f"deploy failed: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
