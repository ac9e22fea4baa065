"""A real Chromium at a real stack, on which the story has been played."""

import os
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from cli.api import Api
from cli.story import Story

CHROMIUM = os.environ.get("SLUICE_TEST_CHROMIUM") or "/usr/bin/chromium"
PASSWORD = "a password of the owner's"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass
class Watched:
    """A page with everything that went wrong on it, and wherever it went.

    Attributes:
        expected: paths that are asked for though they fail; the browser notes each in its own time.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    foreign: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Watch from now on."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._on_request)

    async def see(self, path: str) -> str:
        """Go to a page of the console; its text."""
        answer = await self.page.goto(path)
        assert answer is not None
        assert answer.status == 200, f"{path} answered {answer.status}"
        return await self.page.inner_text("main")

    def _on_console(self, message: ConsoleMessage) -> None:
        url = message.location["url"]
        if message.type in ("error", "warning") and urlsplit(url).path not in self.expected:
            self.errors.append(f"{message.text} ({url})")

    def _on_request(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in LOOPBACK:
            self.foreign.append(request.url)


@pytest.fixture(scope="session")
async def chromium() -> AsyncGenerator[Browser, None]:
    """The browser; skipped where none is installed, but never in CI."""
    if shutil.which(CHROMIUM) is None:
        reason = f"no Chromium at {CHROMIUM}: install it, or name it in SLUICE_TEST_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def stranger(chromium: Browser, played_story: Story) -> AsyncGenerator[Watched, None]:
    """A browser that is not signed in; whatever went wrong on its pages fails the test."""
    origin = played_story.environment["SLUICE_ORIGIN"]
    async with await chromium.new_context(base_url=origin) as context:
        context.set_default_timeout(60_000)
        watched = Watched(await context.new_page())
        watched.start()
        yield watched
        assert watched.errors == []
        assert watched.foreign == []


@pytest.fixture
async def operator(stranger: Watched, played_story: Story) -> Watched:
    """The same browser, signed in by the form as the operator."""
    environment = played_story.environment
    await stranger.page.goto("/login")
    await stranger.page.fill("#email", environment["SLUICE_OPERATOR_EMAIL"])
    await stranger.page.fill("#password", environment["SLUICE_OPERATOR_PASSWORD"])
    await stranger.page.get_by_role("button", name="Sign in").click()
    await stranger.page.wait_for_url("**/tenants")
    return stranger


@dataclass
class Owner:
    """The owner of a new tenant, in a browser of its own."""

    watched: Watched
    slug: str
    email: str
    environment: dict[str, str] = field(repr=False)

    @property
    def page(self) -> Page:
        """The browser's page."""
        return self.watched.page

    async def see(self, path: str) -> str:
        """Go to a page; its text."""
        return await self.watched.see(path)

    async def sandbox_account(self, name: str) -> dict[str, str]:
        """A company at the sandbox, with keys of its own."""
        async with httpx.AsyncClient(
            base_url=self.environment["STRIPE_SIM_URL"], timeout=60
        ) as sandbox:
            answer = await sandbox.post("/_sim/accounts", json={"name": name})
            answer.raise_for_status()
            made: dict[str, str] = answer.json()
            return made


@pytest.fixture
async def owner(stranger: Watched, played_story: Story) -> Owner:
    """Whoever an operator named, signed in by the link that the operator was given."""
    slug = f"e2e-{uuid4().hex[:12]}"
    email = f"owner@{slug}.example"
    operator = Api(played_story.origin, played_story.environment["SLUICE_OPERATOR_KEY"])
    made = await operator.post(
        "/api/v1/tenants", {"name": slug.title(), "slug": slug, "owner_email": email}
    )
    await operator.close()
    await accept(stranger, made["owner_invitation_url"], PASSWORD)
    return Owner(stranger, slug, email, dict(played_story.environment))


async def accept(watched: Watched, link: str, password: str) -> None:
    page = watched.page
    await page.goto(link)
    await page.get_by_label("Your name").fill("Ada")
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Accept and sign in").click()
    await page.wait_for_url("**/tenants")
