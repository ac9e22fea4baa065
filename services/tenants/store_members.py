"""SQL of members, their teams, and the rights they lost lately."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from services.tenants import personal

_PERSON = "u.email, u.name, u.personal, u.wrapped"


async def find_member(tx: Tx, user_id: UUID) -> Row | None:
    """A member of the tenant in scope, with e-mail and name."""
    row = await tx.fetchrow(
        f"select m.*, {_PERSON} from member m cross join lateral find_person(m.user_id) u "  # noqa: S608
        "where m.tenant_id = $1 and m.user_id = $2",
        tx.tenant_id,
        user_id,
    )
    return None if row is None else personal.opened(row)


async def list_members(tx: Tx, after: tuple[datetime, UUID] | None, limit: int) -> list[Row]:
    """The members of the tenant in scope, the oldest first, with e-mail and name."""
    at, user_id = after or (None, None)
    rows = await tx.fetch(
        f"""
        select m.*, {_PERSON}
        from (select * from member where tenant_id = $1
                and ($2::timestamptz is null or (created_at, user_id) > ($2, $3::uuid))
              order by created_at, user_id limit $4) m
        cross join lateral find_person(m.user_id) u
        order by m.created_at, m.user_id
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        at,
        user_id,
        limit,
    )
    return [personal.opened(row) for row in rows]


async def count_members(tx: Tx, role: str | None = None) -> int:
    """How many members the tenant in scope has, of a role or of all."""
    found: int = await tx.fetchval(
        "select count(*) from member where tenant_id = $1 and ($2::text is null or role = $2)",
        tx.tenant_id,
        role,
    )
    return found


async def first_owner(tx: Tx) -> UUID | None:
    """Of the owners of the tenant in scope, the one who has been a member longest."""
    found: UUID | None = await tx.fetchval(
        "select user_id from member where tenant_id = $1 and role = 'owner' "
        "order by created_at, user_id limit 1",
        tx.tenant_id,
    )
    return found


async def set_place(tx: Tx, user_id: UUID, role: str, permissions: list[str]) -> None:
    """Give a member another role and other permissions beyond it."""
    await tx.execute(
        "update member set role = $3, permissions = $4 where tenant_id = $1 and user_id = $2",
        tx.tenant_id,
        user_id,
        role,
        permissions,
    )


async def delete_member(tx: Tx, user_id: UUID) -> None:
    """Remove a member, from its teams too."""
    await tx.execute(
        "delete from member where tenant_id = $1 and user_id = $2", tx.tenant_id, user_id
    )


async def enter_revocation(tx: Tx, user_id: UUID, version: int, at: datetime) -> None:
    """Have the tenant's record tell that a member lost rights with this version of it."""
    await tx.execute(
        """
        insert into member_revocation as r (tenant_id, user_id, version, revoked_at)
        values ($1, $2, $3, $4)
        on conflict (tenant_id, user_id) do update set
            version = greatest(r.version, excluded.version), revoked_at = excluded.revoked_at
        """,
        tx.tenant_id,
        user_id,
        version,
        at,
    )


async def revoked_members(tx: Tx) -> list[Row]:
    """Who lost rights in the last minutes, and with which version."""
    return await tx.fetch(
        "select user_id, version from member_revocation where tenant_id = $1 "
        "order by version desc, user_id",
        tx.tenant_id,
    )


async def places(tx: Tx, user_id: UUID) -> list[Row]:
    """The user's place in each tenant in scope with the version of its record, seen at once."""
    return await tx.fetch(
        "select m.tenant_id, m.role, m.permissions, t.version "
        "from member m join tenant t on t.tenant_id = m.tenant_id where m.user_id = $1",
        user_id,
    )


async def insert_team(
    tx: Tx, team_id: UUID, name: str, *, everyone: bool, created_by: str, at: datetime
) -> Row | None:
    """Enter a team; None when the name is another's, or there is one of everybody already."""
    return await tx.fetchrow(
        "insert into team (tenant_id, team_id, name, everyone, created_by, created_at) "
        "values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning *, 0 as members",
        tx.tenant_id,
        team_id,
        name,
        everyone,
        created_by,
        at,
    )


_TEAM = """
    select t.*, (select count(*) from team_member m
        where m.tenant_id = t.tenant_id and m.team_id = t.team_id) as members
    from team t where t.tenant_id = $1
"""


async def find_team(tx: Tx, team_id: UUID) -> Row | None:
    """A team of the tenant in scope, with the number of its members."""
    return await tx.fetchrow(f"{_TEAM} and t.team_id = $2", tx.tenant_id, team_id)


async def find_everyone(tx: Tx) -> Row | None:
    """The team of everybody, where the tenant in scope has one."""
    return await tx.fetchrow(f"{_TEAM} and t.everyone", tx.tenant_id)


async def list_teams(tx: Tx, after: tuple[datetime, UUID] | None, limit: int) -> list[Row]:
    """The teams of the tenant in scope, the oldest first."""
    at, team_id = after or (None, None)
    return await tx.fetch(
        f"{_TEAM} and ($2::timestamptz is null or (t.created_at, t.team_id) > ($2, $3::uuid)) "
        "order by t.created_at, t.team_id limit $4",
        tx.tenant_id,
        at,
        team_id,
        limit,
    )


async def count_teams(tx: Tx) -> int:
    """How many teams the tenant in scope has."""
    found: int = await tx.fetchval("select count(*) from team where tenant_id = $1", tx.tenant_id)
    return found


async def has_team_named(tx: Tx, name: str) -> bool:
    """Whether a team of the tenant in scope has this name, in whatever case."""
    found: bool = await tx.fetchval(
        "select exists (select from team where tenant_id = $1 and lower(name) = lower($2))",
        tx.tenant_id,
        name,
    )
    return found


async def rename_team(tx: Tx, team_id: UUID, name: str) -> None:
    """Give a team another name."""
    await tx.execute(
        "update team set name = $3 where tenant_id = $1 and team_id = $2",
        tx.tenant_id,
        team_id,
        name,
    )


async def delete_team(tx: Tx, team_id: UUID) -> None:
    """Remove a team; its members stay members of the tenant."""
    await tx.execute(
        "delete from team where tenant_id = $1 and team_id = $2", tx.tenant_id, team_id
    )


async def insert_team_member(tx: Tx, team_id: UUID, user_id: UUID, at: datetime) -> bool:
    """Put a member into a team; False when it is in it."""
    entered = await tx.execute(
        "insert into team_member (tenant_id, team_id, user_id, joined_at) values ($1, $2, $3, $4) "
        "on conflict do nothing",
        tx.tenant_id,
        team_id,
        user_id,
        at,
    )
    return entered == 1


async def insert_all_members(tx: Tx, team_id: UUID, at: datetime) -> None:
    """Put every member of the tenant in scope into a team."""
    await tx.execute(
        "insert into team_member (tenant_id, team_id, user_id, joined_at) "
        "select tenant_id, $2, user_id, $3 from member where tenant_id = $1 on conflict do nothing",
        tx.tenant_id,
        team_id,
        at,
    )


async def delete_team_member(tx: Tx, team_id: UUID, user_id: UUID) -> bool:
    """Take a member out of a team; False when it is not in it."""
    removed = await tx.execute(
        "delete from team_member where tenant_id = $1 and team_id = $2 and user_id = $3",
        tx.tenant_id,
        team_id,
        user_id,
    )
    return removed == 1


async def list_team_members(
    tx: Tx, team_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The members of a team in the order they joined it, with their place in the tenant."""
    at, user_id = after or (None, None)
    rows = await tx.fetch(
        f"""
        select m.*, j.joined_at, {_PERSON}
        from team_member j
        join member m on m.tenant_id = j.tenant_id and m.user_id = j.user_id
        cross join lateral find_person(j.user_id) u
        where j.tenant_id = $1 and j.team_id = $2
          and ($3::timestamptz is null or (j.joined_at, j.user_id) > ($3, $4::uuid))
        order by j.joined_at, j.user_id limit $5
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        team_id,
        at,
        user_id,
        limit,
    )
    return [personal.opened(row) for row in rows]
