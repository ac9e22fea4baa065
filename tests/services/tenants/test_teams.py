"""Teams: named groups of one tenant's members."""

from typing import Any

import pytest

from libs.contracts.audit import ConfigurationChanged
from libs.ids import public_id
from libs.testing.databases import TestDatabase
from services.tenants import teams
from tenants.conftest import World, checksums
from tenants.persons import Person, add_person, signed_in

TEAMS = "/api/v1/teams"


async def make(person: Person, name: str) -> dict[str, Any]:
    answer = await person.call("POST", TEAMS, json={"name": name})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_team_from_its_making_to_its_end(world: World) -> None:
    await world.sign_up("Acme")
    bob = public_id("user", await add_person(world, "bob@acme.example", acme="member"))
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        team = await make(owner, "Research")
        path = f"{TEAMS}/{team['id']}"
        assert (team["name"], team["everyone"], team["members"]) == ("Research", False, 0)
        for _ in range(2):
            added = await owner.call("PUT", f"{path}/members/{bob}")
            assert (added.status_code, added.json()["email"]) == (200, "bob@acme.example")
        inside = (await owner.call("GET", f"{path}/members")).json()
        assert ([item["user"] for item in inside["items"]], inside["next_cursor"]) == ([bob], None)
        renamed = await owner.call("PATCH", path, json={"name": "research"})
        assert (renamed.json()["name"], renamed.json()["members"]) == ("research", 1)
        assert (await owner.call("GET", path)).json() == renamed.json()
        assert (await owner.call("DELETE", f"{path}/members/{bob}")).status_code == 204
        assert (await owner.call("DELETE", f"{path}/members/{bob}")).status_code == 404
        await owner.call("PUT", f"{path}/members/{bob}")
        assert (await owner.call("DELETE", path)).status_code == 204
        assert (await owner.call("GET", path)).status_code == 404
        assert (await owner.call("GET", f"/api/v1/members/{bob}")).status_code == 200
    actions = [
        event.data.action
        for event in world.log.events(ConfigurationChanged)
        if event.data.object_id == team["id"]
    ]
    assert actions == [
        "team.created",
        "team.member_added",
        "team.renamed",
        "team.member_removed",
        "team.member_added",
        "team.removed",
    ]


async def test_who_leaves_the_tenant_leaves_its_teams(world: World) -> None:
    await world.sign_up("Acme")
    bob = public_id("user", await add_person(world, "bob@acme.example", acme="member"))
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        team = await make(owner, "Research")
        await owner.call("PUT", f"{TEAMS}/{team['id']}/members/{bob}")
        await owner.call("DELETE", f"/api/v1/members/{bob}")
        shown = (await owner.call("GET", f"{TEAMS}/{team['id']}")).json()
        assert shown["members"] == 0


async def test_names_are_unique_and_teams_limited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sign_up("Acme")
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        await make(owner, "Research")
        other = await make(owner, "Sales")
        for answer in (
            await owner.call("POST", TEAMS, json={"name": "RESEARCH"}),
            await owner.call("PATCH", f"{TEAMS}/{other['id']}", json={"name": "research"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (409, "team_name_taken")
        monkeypatch.setattr(teams, "TEAMS_MAX", 2)
        full = await owner.call("POST", TEAMS, json={"name": "Third"})
        assert (full.status_code, full.json()["code"]) == (409, "too_many_teams")
        for body in (
            {},
            {"name": ""},
            {"name": "x" * 201},
            {"name": "a\x00"},
            {"name": "a", "x": 1},
        ):
            assert (await owner.call("POST", TEAMS, json=body)).status_code == 422
        first = (await owner.call("GET", f"{TEAMS}?limit=1")).json()
        rest = (await owner.call("GET", f"{TEAMS}?limit=1&cursor={first['next_cursor']}")).json()
        assert [item["name"] for item in first["items"] + rest["items"]] == ["Research", "Sales"]


async def test_the_same_request_makes_one_team(world: World) -> None:
    await world.sign_up("Acme")
    key = await world.make_key("acme", "members:manage")
    headers = {"Idempotency-Key": "once"}
    answers = [
        await world.call("POST", TEAMS, key=key, json={"name": "One"}, headers=headers)
        for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()


async def test_another_tenants_team_and_people_are_not_there(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    stranger = public_id("user", await add_person(world, "x@globex.example", globex="member"))
    async with (
        signed_in(world, "owner@acme.example", acme="owner") as owner,
        signed_in(world, "owner@globex.example", globex="owner") as other,
    ):
        team = await make(owner, "Research")
        path = f"{TEAMS}/{team['id']}"
        for method, where, parts in (
            ("GET", path, {}),
            ("PATCH", path, {"json": {"name": "x"}}),
            ("DELETE", path, {}),
            ("GET", f"{path}/members", {}),
            ("PUT", f"{path}/members/{stranger}", {}),
            ("DELETE", f"{path}/members/{stranger}", {}),
        ):
            assert (await other.call(method, where, **parts)).status_code == 404
        assert (await owner.call("PUT", f"{path}/members/{stranger}")).status_code == 404
        for reference in ("team_x", "x", stranger):
            assert (await owner.call("GET", f"{TEAMS}/{reference}")).status_code == 404
        assert (await other.call("GET", TEAMS)).json()["items"] == []


async def test_replay_changes_nothing(world: World, database: TestDatabase) -> None:
    await world.sign_up("Acme")
    bob = public_id("user", await add_person(world, "bob@acme.example", acme="member"))
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        team = await make(owner, "Research")
        await owner.call("PUT", f"{TEAMS}/{team['id']}/members/{bob}")
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        await world.settle()
        assert await checksums(database) == before
