"""Who looks, at which tenant, in which mode: worked out once for each page.

The tenant and the mode in view stand in the address (`?tenant=acme&mode=test`) and in every link of
a page, so that an address can be sent to a colleague and shows the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from pydantic import ValidationError

from services.console.origin import Api, ApiProblem, Origin
from services.console.shapes import Assertion, Listed, Membership, Tenant

HOME = "/tenants"
MODES = ("test", "live")
TENANTS_IN_SWITCHER = 200
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")


@dataclass(frozen=True)
class Choice:
    """One entry of the tenant switcher."""

    id: str
    slug: str
    name: str


@dataclass(frozen=True)
class Viewer:
    """The person a page is for.

    Attributes:
        user_id: `usr_…`, as the API names them.
        tenant: slug of the tenant in view; None while an operator has chosen none.
        tenant_name: its name, where it is known.
        choices: what the switcher offers.
        api: the API with this person's rights for the tenant in view.
        whole: the API without a tenant named: the platform as a whole to an operator.
    """

    email: str
    operator: bool
    mode: str
    tenant: str | None
    tenant_name: str | None
    choices: tuple[Choice, ...]
    api: Api
    whole: Api
    user_id: str | None = None

    def link(self, path: str, tenant: str | None = None, **query: str | None) -> str:
        """The address of a page, with the tenant and the mode in view."""
        parts: dict[str, str | None] = {"tenant": tenant or self.tenant}
        if self.mode != MODES[0]:
            parts["mode"] = self.mode
        parts |= {name.rstrip("_"): value for name, value in query.items()}
        given = {name: value for name, value in parts.items() if value}
        return f"{path}?{urlencode(given)}" if given else path

    def name_of(self, tenant_id: str) -> str:
        """A tenant's name where the switcher knows it, else its id."""
        return next((each.name for each in self.choices if each.id == tenant_id), tenant_id)


async def look(origin: Origin, cookies: Mapping[str, str], query: Mapping[str, str]) -> Viewer:
    """The viewer of a page.

    Args:
        origin: the API.
        cookies: the browser's.
        query: the query of the page's address, for the tenant and mode chosen.

    Raises:
        NotSignedIn: there is no session.
        ApiProblem: the tenant named is none of theirs, or there is none of that name.
    """
    wanted = _tenant_of(query)
    mode = query.get("mode") or MODES[0]
    if mode not in MODES:
        raise ApiProblem(400, "There are two modes, `test` and `live`. Choose one of them.")
    choice = {"mode": mode}
    first = _read(await origin.assertion(cookies, choice))
    if first.user.operator:
        return await _operator(origin, first, wanted, mode)
    return await _member(origin, cookies, first, wanted, choice)


async def _operator(origin: Origin, first: Assertion, wanted: str | None, mode: str) -> Viewer:
    """The platform's staff: they may look at any tenant, or at the platform as a whole."""
    whole = origin.bearer(first.assertion, None)
    known = await whole.read(Listed[Tenant], "/api/v1/tenants", limit=str(TENANTS_IN_SWITCHER))
    choices = [Choice(each.id, each.slug, each.name) for each in known.items]
    slug = name = None
    if wanted is not None:
        found = [each for each in known.items if wanted.lower() in (each.id, each.slug)]
        tenant = found[0] if found else await whole.read(Tenant, f"/api/v1/tenants/{wanted}")
        slug, name = tenant.slug, tenant.name
        if not found:
            choices.insert(0, Choice(tenant.id, slug, name))
    api = origin.bearer(first.assertion, slug)
    return Viewer(
        first.user.email, True, mode, slug, name, tuple(choices), api, whole, first.user.id
    )


async def _member(
    origin: Origin,
    cookies: Mapping[str, str],
    first: Assertion,
    wanted: str | None,
    choice: Mapping[str, str],
) -> Viewer:
    """A tenant's own people: one of their tenants is always in view."""
    if not first.tenants:
        raise ApiProblem(
            403,
            "You are not a member of any tenant. Ask an owner or admin of one to invite you.",
            title="No tenant",
        )
    chosen = _membership(first.tenants, wanted)
    given = _read(await origin.assertion(cookies, {**choice, "tenant": chosen.slug}))
    api = origin.bearer(given.assertion, chosen.slug)
    whole = origin.bearer(given.assertion, None)
    choices = tuple(Choice(each.id, each.slug, each.name) for each in first.tenants)
    mode = choice["mode"]
    return Viewer(
        given.user.email,
        False,
        mode,
        chosen.slug,
        chosen.name,
        choices,
        api,
        whole,
        given.user.id,
    )


def _membership(tenants: list[Membership], wanted: str | None) -> Membership:
    if wanted is None:
        return tenants[0]
    for each in tenants:
        if wanted.lower() in (each.slug.lower(), each.id.lower()):
            return each
    raise ApiProblem(
        403,
        "You are not a member of this tenant. Choose one of yours above.",
        title="Not your tenant",
    )


def _tenant_of(query: Mapping[str, str]) -> str | None:
    text = query.get("tenant", "")
    if not text:
        return None
    if not _TENANT.fullmatch(text):
        raise ApiProblem(404, "There is no such tenant. Choose one above.", title="Not found")
    return text


def _read(answer: Mapping[str, object]) -> Assertion:
    try:
        return Assertion.model_validate(answer)
    except ValidationError:
        raise ApiProblem(
            502,
            "The session was answered in a form that this version of the console does not know.",
            title="Versions do not fit",
        ) from None


def same_site_path(text: str | None) -> str:
    """A path of this site to go on to after signing in; anything else becomes the first page."""
    if not text or len(text) > 2_000 or not text.startswith("/") or not text.isprintable():
        return HOME
    if text.startswith("//") or "\\" in text:
        return HOME
    parts = urlsplit(text)
    if parts.scheme or parts.netloc or parts.path in ("/login", "/logout"):
        return HOME
    return text
