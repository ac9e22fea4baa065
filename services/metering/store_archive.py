"""SQL of the archive: how far it reaches, and which files are in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from libs.db.pool import Database, Tx
from services.metering.archive import ArchivedFile


@dataclass(frozen=True)
class Place:
    """How far a partition is archived.

    Attributes:
        first_offset: where the archive of the partition begins.
        planned_offset: the end of the stretch being written; None between stretches.
        archived_at: when everything that was there then had been archived.
    """

    partition: int
    first_offset: int
    next_offset: int
    planned_offset: int | None
    archived_at: datetime
    lost_records: int


async def list_places(database: Database, begins: Mapping[int, int], now: datetime) -> list[Place]:
    """The place of every partition; one seen for the first time starts where its log begins."""
    async with database.maintenance() as tx:
        partitions = sorted(begins)
        await tx.execute(
            """
            insert into archive_place (partition, first_offset, next_offset, archived_at)
            select p, n, n, $3 from unnest($1::int[], $2::bigint[]) as u(p, n) on conflict do nothing
            """,
            partitions,
            [begins[partition] for partition in partitions],
            now,
        )
        rows = await tx.fetch("select * from archive_place order by partition")
    return [
        Place(
            row["partition"],
            row["first_offset"],
            row["next_offset"],
            row["planned_offset"],
            row["archived_at"],
            row["lost_records"],
        )
        for row in rows
    ]


async def is_whole(database: Database, *, archived_since: date | None = None) -> bool:
    """Whether all usage up to where the archive reaches is in it: none came before it, none was lost.

    Args:
        archived_since: and it reaches up to this day in every partition.
    """
    async with database.maintenance() as tx:
        return bool(
            await tx.fetchval(
                "select coalesce(bool_and(lost_records = 0 and coalesce(first_offset, 1) = 0 "
                "and ($1::date is null or archived_at >= $1)), false) from archive_place",
                archived_since,
            )
        )


async def plan(database: Database, place: Place, end: int) -> bool:
    """Settle the stretch that is written next; False where another worker was first."""
    async with database.maintenance() as tx:
        return bool(
            await tx.execute(
                """
                update archive_place set planned_offset = $3
                where partition = $1 and next_offset = $2 and planned_offset is null
                """,
                place.partition,
                place.next_offset,
                end,
            )
        )


async def finish(
    database: Database,
    place: Place,
    end: int,
    files: Sequence[ArchivedFile],
    at: datetime | None,
) -> None:
    """List a stretch's files and go on behind it, together.

    What another worker has planned meanwhile stands: its files may be there already.

    Args:
        at: when the partition was seen to end at `end`; None where it went on.
    """
    async with database.maintenance() as tx:
        moved = await tx.execute(
            """
            update archive_place set next_offset = $3, planned_offset = null,
                archived_at = coalesce($4, archived_at)
            where partition = $1 and next_offset = $2
                and planned_offset is not distinct from nullif($3::bigint, $2::bigint)
            """,
            place.partition,
            place.next_offset,
            end,
            at,
        )
        if moved:
            await tx.executemany(
                """
                insert into archived_file (tenant_id, mode, received_day, partition, first_offset,
                                           next_offset, records, size_bytes, sha256)
                values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                """,
                [
                    (
                        file.tenant_id,
                        file.mode,
                        file.received_day,
                        file.partition,
                        file.first_offset,
                        file.next_offset,
                        file.records,
                        file.size_bytes,
                        file.sha256,
                    )
                    for file in files
                ],
            )


async def skip_lost(database: Database, place: Place, begin: int) -> None:
    """Go on where the log begins now; what lay before it was deleted unarchived."""
    async with database.maintenance() as tx:
        await tx.execute(
            """
            update archive_place set next_offset = $3, planned_offset = null,
                lost_records = lost_records + ($3 - $2)
            where partition = $1 and next_offset = $2
            """,
            place.partition,
            place.next_offset,
            begin,
        )


async def files_of(tx: Tx, tenant_id: UUID) -> list[ArchivedFile]:
    """The files of a tenant in the mode in scope, in the order in which their records came in."""
    rows = await tx.fetch(
        """
        select tenant_id, mode, received_day, partition, first_offset, next_offset, records,
            size_bytes, sha256
        from archived_file where tenant_id = $1 and mode = $2
        order by received_day, partition, first_offset
        """,
        tenant_id,
        tx.mode,
    )
    return [ArchivedFile(*row) for row in rows]
