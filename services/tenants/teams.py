"""Teams: named groups of members of one tenant."""

from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Row, Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.tenants import store_members as store
from services.tenants import store_tenants
from services.tenants.members import UnknownMemberError

TEAMS_MAX = 200
NAME_LENGTH_MAX = 200


class UnknownTeamError(Exception):
    """The tenant has no such team."""


class TeamNameTakenError(Exception):
    """Another team of the tenant has the name."""


class TooManyTeamsError(Exception):
    """The tenant has `TEAMS_MAX` teams."""


async def make(tx: Tx, name: str, actor: str, at: datetime) -> Row:
    """Make a team, empty at first.

    Raises:
        TeamNameTakenError, TooManyTeamsError.
    """
    await store_tenants.lock_tenant(tx)
    if await store.count_teams(tx) >= TEAMS_MAX:
        raise TooManyTeamsError
    row = await store.insert_team(tx, new_id(), name, everyone=False, created_by=actor, at=at)
    if row is None:
        raise TeamNameTakenError
    _tell(tx, "team.created", row["team_id"], actor, at, after={"name": name})
    return row


async def rename(tx: Tx, team_id: UUID, name: str, actor: str, at: datetime) -> Row:
    """Give a team another name.

    Raises:
        UnknownTeamError, TeamNameTakenError.
    """
    await store_tenants.lock_tenant(tx)
    row = await find(tx, team_id)
    if row["name"] == name:
        return row
    if row["name"].lower() != name.lower() and await store.has_team_named(tx, name):
        raise TeamNameTakenError
    await store.rename_team(tx, team_id, name)
    before = {"name": row["name"]}
    _tell(tx, "team.renamed", team_id, actor, at, before=before, after={"name": name})
    return await find(tx, team_id)


async def remove(tx: Tx, team_id: UUID, actor: str, at: datetime) -> None:
    """Remove a team; its members stay members of the tenant.

    Raises:
        UnknownTeamError: there is none.
    """
    await store_tenants.lock_tenant(tx)
    row = await find(tx, team_id)
    await store.delete_team(tx, team_id)
    _tell(tx, "team.removed", team_id, actor, at, before={"name": row["name"]})


async def add_member(tx: Tx, team_id: UUID, user_id: UUID, actor: str, at: datetime) -> Row:
    """Put a member of the tenant into a team; the member.

    Raises:
        UnknownTeamError, UnknownMemberError.
    """
    await store_tenants.lock_tenant(tx)
    await find(tx, team_id)
    member = await store.find_member(tx, user_id)
    if member is None:
        raise UnknownMemberError
    if await store.insert_team_member(tx, team_id, user_id, at):
        joined = {"member": public_id("user", user_id)}
        _tell(tx, "team.member_added", team_id, actor, at, after=joined)
    return member


async def remove_member(tx: Tx, team_id: UUID, user_id: UUID, actor: str, at: datetime) -> None:
    """Take a member out of a team.

    Raises:
        UnknownTeamError, UnknownMemberError: no such team, or not in it.
    """
    await store_tenants.lock_tenant(tx)
    await find(tx, team_id)
    if not await store.delete_team_member(tx, team_id, user_id):
        raise UnknownMemberError
    left = {"member": public_id("user", user_id)}
    _tell(tx, "team.member_removed", team_id, actor, at, before=left)


async def join_everyone(tx: Tx, tenant: Row, user_id: UUID, at: datetime) -> None:
    """Whoever joins a tenant of type `user` joins its team of everybody, made with the first.

    So a person who invites others becomes a team that shares the person's subscription; the tenant
    stays what it is: same id, slug, customer and subscription (requirement T2).
    """
    if tenant["type"] != "user":
        return
    team = await store.find_everyone(tx)
    if team is None:
        name = tenant["name"]
        if await store.has_team_named(tx, name):
            name = f"{name[: NAME_LENGTH_MAX - 12]} (everybody)"
        actor = "system"
        team = await store.insert_team(tx, new_id(), name, everyone=True, created_by=actor, at=at)
        if team is None:
            return
        _tell(tx, "team.created", team["team_id"], actor, at, after={"name": name})
        await store.insert_all_members(tx, team["team_id"], at)
        return
    await store.insert_team_member(tx, team["team_id"], user_id, at)


async def find(tx: Tx, team_id: UUID) -> Row:
    """A team of the tenant in scope.

    Raises:
        UnknownTeamError: there is none.
    """
    row = await store.find_team(tx, team_id)
    if row is None:
        raise UnknownTeamError
    return row


async def list_all(tx: Tx, after: tuple[datetime, UUID] | None, limit: int) -> list[Row]:
    """The teams of the tenant in scope, the oldest first."""
    return await store.list_teams(tx, after, limit)


async def list_members(
    tx: Tx, team_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The members of a team, in the order they joined it.

    Raises:
        UnknownTeamError: there is none.
    """
    await find(tx, team_id)
    return await store.list_team_members(tx, team_id, after, limit)


def _tell(
    tx: Tx,
    action: str,
    team_id: UUID,
    actor: str,
    at: datetime,
    *,
    before: dict[str, str] | None = None,
    after: dict[str, str] | None = None,
) -> None:
    change = ConfigurationChanged(
        action=action,
        actor=actor,
        object_id=public_id("team", team_id),
        before=dict(before) if before else None,
        after=dict(after) if after else None,
    )
    emit(tx, change, effective_at=at)
