"""`sluice demo`: the story of one tenant's money, told step by step as it happens."""

from collections.abc import Awaitable, Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from cli import proof, terms
from cli.api import Api, StoryError
from cli.story import Facts, Story

RUNS_MAX = 1_000


async def run_demo(environment: Mapping[str, str], console: Console) -> None:
    """Play the story on a running stack and tell what happened and where to look.

    Raises:
        StoryError: a step did not come out as it must; the message says which and how.
    """
    story = Story(environment, terms.DEMO, number=await next_number(environment))
    origin = environment["SLUICE_ORIGIN"]
    of_tenant = f"?tenant={story.named('acme')}"
    steps: list[tuple[str, Callable[[], Awaitable[Facts]], str]] = [
        ("The operator creates a meter and a plan", story.create_plan, "/openapi.json"),
        ("Acme signs up", story.sign_up, f"/tenants{of_tenant}"),
        ("Acme buys the plan on the hosted page", story.check_out, f"/invoices{of_tenant}"),
        ("The product reports usage, some twice, some late", story.use, f"/usage{of_tenant}"),
        ("The operator grants a credit", story.grant_credit, f"/invoices{of_tenant}"),
        (
            "The period ends: rated, invoiced, collected",
            story.close_period,
            f"/invoices{of_tenant}",
        ),
        ("Everything is posted", story.check_ledger, "/ledger"),
        ("Globex sees none of it", story.look_from_outside, "/tenants"),
        ("SQL as any service's role shows globex nothing", sql_isolation(story), "/tenants"),
        ("Everything is sent again", resend(story), "/ops/topics"),
        ("Every topic is replayed, inboxes kept", replay(story, clear=False), "/ops/topics"),
        ("Every topic is replayed, inboxes cleared", replay(story, clear=True), "/ops/topics"),
    ]
    try:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
        ) as progress:
            task = progress.add_task("The story begins", total=len(steps))
            for number, (title, play, page) in enumerate(steps, start=1):
                progress.update(task, description=title)
                facts = await play()
                progress.advance(task)
                console.print(told(number, title, facts, f"{origin}{page}"))
            progress.update(task, description="The story is told")
    finally:
        await story.close()


async def next_number(environment: Mapping[str, str]) -> int:
    """1 on a fresh stack; the number of the next run where the story has been played or begun."""
    operator = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    try:
        for number in range(1, RUNS_MAX):
            suffix = "" if number == 1 else f"-{number}"
            traces = (f"/api/v1/tenants/acme{suffix}", f"/api/v1/meters/api_calls{suffix}")
            if {await operator.status_of("GET", path) for path in traces} == {404}:
                return number
    finally:
        await operator.close()
    raise StoryError("this stack has seen the story a thousand times; `sluice reset` clears it")


def told(number: int, title: str, facts: Facts, page: str) -> Table:
    """A step as a small table: what happened, ids, and where to look."""
    table = Table(title=f"{number}. {title}", title_justify="left", show_header=False, box=None)
    for label, value in facts.items():
        table.add_row(f"   [dim]{label}[/dim]", str(value))
    table.add_row("   [dim]look at[/dim]", page)
    return table


def sql_isolation(story: Story) -> Callable[[], Awaitable[Facts]]:
    """The step that looks for acme's rows as every service's role in globex's scope."""

    async def play() -> Facts:
        seen, looked = await proof.rows_seen(
            story.environment, owner=story.tenant_id, looking_as=story.other_id
        )
        if seen:
            raise StoryError(f"row-level security shows {seen} of acme's rows to globex")
        return {"tables looked at": looked, "acme's rows seen": seen}

    return play


def resend(story: Story) -> Callable[[], Awaitable[Facts]]:
    """The step that sends every webhook and all usage once more."""

    async def play() -> Facts:
        await proof.settle(story.environment)
        before = await proof.checksums(story.environment)
        webhooks = await proof.resend_webhooks(story.environment)
        await story.send_usage(story.usage)
        await proof.settle(story.environment)
        must_be_equal(before, await proof.checksums(story.environment), "sending again")
        return {
            "webhooks sent again": webhooks,
            "usage events sent again": len(story.usage),
            "tables equal": len(before),
        }

    return play


def replay(story: Story, *, clear: bool) -> Callable[[], Awaitable[Facts]]:
    """The step that reads every topic again from its first record."""

    async def play() -> Facts:
        before = await proof.checksums(story.environment)
        await proof.replay(story.environment, clear_inboxes=clear)
        must_be_equal(before, await proof.checksums(story.environment), "the replay")
        return {"tables equal": len(before), "outbox rows added": 0}

    return play


def must_be_equal(before: Mapping[str, str], after: Mapping[str, str], what: str) -> None:
    """Every table is as it was.

    Raises:
        StoryError: naming the tables that changed.
    """
    changed = proof.differences(before, after)
    if changed:
        raise StoryError(f"{what} changed {', '.join(changed)}")
