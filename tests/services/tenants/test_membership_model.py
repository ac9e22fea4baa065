"""Members and invitations against a plain model, in whatever order people try to better themselves.

The model knows places only: who has which role and which further permissions. What each step may do
is said again here, in other words than in the service. After each step the places are those of the
model, an owner is among them, and nobody has gained anything by an own act.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.clock import utc_now
from libs.db.pool import Tx
from libs.db.tenant import Scope
from libs.ids import new_id, public_id
from services.tenants import invitations, members, people, tenancy
from services.tenants.authority import BeyondAuthorityError
from services.tenants.roles import PERMISSIONS, SCOPES, Role
from tenants.conftest import World

PEOPLE = 4
ROLES: tuple[Role, ...] = ("member", "billing_admin", "admin", "owner")

REFUSALS = (
    BeyondAuthorityError,
    members.UnknownMemberError,
    members.LastOwnerError,
    members.SelfPromotionError,
    invitations.AlreadyMemberError,
    invitations.NotOpenError,
    invitations.NotProvedError,
)

Place = tuple[Role, frozenset[str]]

PERSON = st.integers(0, PEOPLE - 1)
ROLE = st.sampled_from(ROLES)
EXTRA = st.frozensets(st.sampled_from(sorted(SCOPES)), max_size=2)

STEPS = st.one_of(
    st.tuples(st.just("change"), PERSON, PERSON, ROLE, st.none() | EXTRA),
    st.tuples(st.just("extra"), PERSON, PERSON, EXTRA),
    st.tuples(st.just("remove"), PERSON, PERSON),
    st.tuples(st.just("invite"), PERSON, PERSON, ROLE, EXTRA),
    st.tuples(st.just("accept"), st.integers(0, 5), PERSON),
    st.tuples(st.just("withdraw"), PERSON, st.integers(0, 5)),
)


def rights(place: Place) -> frozenset[str]:
    """All that a place allows, the owner's crown and the ladder of roles included."""
    role, extra = place
    named = PERMISSIONS[role] | extra
    if "billing:manage" in named:
        named |= {"billing:read", "usage:read", "ledger:read"}
    if "ledger:post" in named:
        named |= {"ledger:read"}
    return named | {f"at least {each}" for each in ROLES[: ROLES.index(role) + 1]}


def within(actor: Place | None, *places: Place) -> bool:
    """Whether an actor may give, take or touch all of these."""
    return actor is not None and all(rights(place) <= rights(actor) for place in places)


@dataclass
class Sent:
    """An invitation as the model knows it."""

    maker: int
    guest: int
    place: Place
    token: str
    invitation_id: UUID
    open: bool = True


@dataclass
class Model:
    """One tenant, its people, and what the model expects of them."""

    world: World
    tenant_id: UUID
    users: list[UUID]
    emails: list[str]
    places: dict[int, Place]
    sent: list[Sent] = field(default_factory=list)

    def owners(self) -> list[int]:
        return [person for person, place in self.places.items() if place[0] == "owner"]

    async def apply(self, step: tuple[Any, ...]) -> None:
        """Try a step on both, and compare."""
        before = dict(self.places)
        match step:
            case ("change", actor, target, role, extra):
                await self._change(actor, target, role, extra)
            case ("extra", actor, target, extra):
                await self._change(actor, target, None, extra)
            case ("remove", actor, target):
                await self._remove(actor, target)
            case ("invite", actor, guest, role, extra):
                await self._invite(actor, guest, role, extra)
            case ("accept", number, person):
                await self._accept(number, person)
            case ("withdraw", actor, number):
                await self._withdraw(actor, number)
        assert await self._real_places() == self.places
        assert self.owners()
        for person, place in self.places.items():
            if step[0] != "accept" and step[1] == person and person in before:
                assert rights(place) <= rights(before[person])

    async def _change(
        self, actor: int, target: int, role: Role | None, extra: frozenset[str] | None
    ) -> None:
        had = self.places.get(target)
        expected: type[Exception] | None = None
        if had is None:
            expected = members.UnknownMemberError
            gets = had
        else:
            new_role = role or had[0]
            gets = (new_role, (had[1] if extra is None else extra) - PERMISSIONS[new_role])
            if not within(self.places.get(actor), had, gets):
                expected = BeyondAuthorityError
            elif had[0] == "owner" != new_role and self.owners() == [target]:
                expected = members.LastOwnerError
        async with self._expecting(expected) as tx:
            await members.change(
                tx,
                self.users[target],
                role=role,
                permissions=extra,
                actor=public_id("user", self.users[actor]),
                at=utc_now(),
            )
        if expected is None and gets is not None:
            self.places[target] = gets

    async def _remove(self, actor: int, target: int) -> None:
        had = self.places.get(target)
        expected: type[Exception] | None = None
        if had is None:
            expected = members.UnknownMemberError
        elif not within(self.places.get(actor), had):
            expected = BeyondAuthorityError
        elif self.owners() == [target]:
            expected = members.LastOwnerError
        async with self._expecting(expected) as tx:
            actor_id = public_id("user", self.users[actor])
            await members.remove(tx, self.users[target], actor=actor_id, at=utc_now())
        if expected is None:
            del self.places[target]
            for sent in self.sent:
                sent.open &= sent.maker != target

    async def _invite(self, actor: int, guest: int, role: Role, extra: frozenset[str]) -> None:
        place: Place = (role, extra - PERMISSIONS[role])
        expected: type[Exception] | None = None
        if not within(self.places.get(actor), place):
            expected = BeyondAuthorityError
        elif guest in self.places:
            expected = invitations.AlreadyMemberError
        made = None
        async with self._expecting(expected) as tx:
            made = await invitations.make(
                tx,
                self._email(guest),
                role,
                extra,
                actor=public_id("user", self.users[actor]),
                at=utc_now(),
            )
        if made is not None:
            for sent in self.sent:
                sent.open &= sent.guest != guest
            self.sent.append(Sent(actor, guest, place, made.token, made.row["invitation_id"]))

    async def _accept(self, number: int, person: int) -> None:
        if number >= len(self.sent):
            return
        sent = self.sent[number]
        expected: type[Exception] | None = None
        if not sent.open or not within(self.places.get(sent.maker), sent.place):
            expected = invitations.NotOpenError
        elif person != sent.guest:
            expected = invitations.NotProvedError
        async with self._expecting(expected) as tx:
            proof = invitations.Proof(user_id=self.users[person])
            await invitations.accept(tx, sent.token, proof, utc_now())
        if expected is None:
            sent.open = False
            self.places.setdefault(person, sent.place)

    async def _withdraw(self, actor: int, number: int) -> None:
        if number >= len(self.sent):
            return
        sent = self.sent[number]
        expected: type[Exception] | None = None
        if not sent.open:
            expected = invitations.NotOpenError
        elif not within(self.places.get(actor), sent.place):
            expected = BeyondAuthorityError
        async with self._expecting(expected) as tx:
            actor_id = public_id("user", self.users[actor])
            await invitations.withdraw(tx, sent.invitation_id, actor_id, utc_now())
        if expected is None:
            sent.open = False

    @asynccontextmanager
    async def _expecting(self, expected: type[Exception] | None) -> AsyncGenerator[Tx, None]:
        """A transaction in the tenant that ends as expected."""
        refused: type[Exception] | None = None
        try:
            async with self.world.database.tenant(self.tenant_id, None) as tx:
                yield tx
        except REFUSALS as error:
            refused = type(error)
        assert refused is expected

    def _email(self, person: int) -> str:
        return self.emails[person]

    async def _real_places(self) -> dict[int, Place]:
        async with self.world.database.tenant(self.tenant_id, None) as tx:
            rows = await members.list_all(tx, None, 100)
        return {
            self.users.index(row["user_id"]): (row["role"], frozenset(row["permissions"]))
            for row in rows
        }


def _positions() -> Iterator[tuple[int, Place]]:
    yield 0, ("owner", frozenset())
    yield 1, ("admin", frozenset())
    yield 2, ("member", frozenset({"members:manage"}))


async def _model(world: World) -> Model:
    now = utc_now()
    async with world.database.transaction() as tx:
        emails = [f"{new_id()}@acme.example" for _ in range(PEOPLE)]
        users = [await people.ensure_user(tx, email, now, password_hash="x") for email in emails]
        new = tenancy.NewTenant(
            name="Acme",
            tenant_type="organization",
            currency="EUR",
            locale="en",
            created_by="system",
            slug=f"acme-{users[0].hex}",
        )
        made = await tenancy.sign_up(tx, new, now)
        await tx.enter(Scope((made.tenant_id,), None))
        for person, (role, extra) in _positions():
            await members.add(tx, users[person], role, extra, now)
    return Model(world, made.tenant_id, users, emails, dict(_positions()))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=5, max_size=25))
async def test_nobody_betters_themselves_and_an_owner_stays(
    world: World, steps: list[tuple[Any, ...]]
) -> None:
    model = await _model(world)
    for step in steps:
        await model.apply(step)
