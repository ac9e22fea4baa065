"""One tenant's money all the way through, on real Kafka and Postgres; nothing faked but Stripe.

Price, included amount, tiers, event count and the shares of duplicates and late events are drawn
from a printed seed; `cli.terms` computes the expected invoice in plain arithmetic.
"""

import pytest

from cli import proof
from cli.api import Api, eventually
from cli.demo import next_number
from cli.story import Story
from cli.terms import draw
from deploy.local.stack import Stack
from tests.conftest import story_seed

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
async def story(stack: Stack) -> Story:
    """A story of this module's own, played to its end."""
    environment = stack.environment()
    told = Story(environment, draw(story_seed()), number=await next_number(environment))
    # Given a meter and a plan, a tenant signs up, buys, uses the product, and its period ends;
    # when each effect has shown, then every figure is the expected one: the steps check it.
    for step in told.steps():
        await step()
    return told


async def test_the_invoice_is_the_one_computed_in_plain_code(story: Story) -> None:
    terms = story.terms
    lines = {line["kind"]: line["amount_minor"] for line in story.cycle_invoice["lines"]}
    assert lines["flat"] == terms.fee_minor
    assert lines.get("usage", 0) == terms.usage_minor(story.quantity)
    assert lines["credit"] == -terms.credit_minor
    assert story.cycle_invoice["total_minor"] == sum(lines.values())


async def test_the_fee_is_billed_once_per_period(story: Story) -> None:
    page = await story.tenant.get("/api/v1/invoices", limit=100)
    fees = []
    for item in page["items"]:
        invoice = await story.tenant.get(f"/api/v1/invoices/{item['id']}")
        fees += [line for line in invoice["lines"] if line["kind"] == "flat"]
    periods = {(line["period_from"], line["period_to"]) for line in fees}
    assert len(fees) == len(periods) == 2


async def test_every_usage_event_counts_exactly_once(story: Story) -> None:
    assert await story.usage_counted()


async def test_the_credit_is_used_up(story: Story) -> None:
    assert await story.balance_minor() == 0


async def test_the_books_balance_and_clearing_equals_stripe(story: Story) -> None:
    await story.check_ledger()


async def test_what_is_deferred_is_what_the_waterfall_has_to_come(story: Story) -> None:
    """The first period is over by the tenant's clock: what it cost is earned, the next is to come."""
    operator_key = story.environment["SLUICE_OPERATOR_KEY"]
    staff = Api(story.origin, operator_key, tenant=story.tenant_id)
    first = story.period[0]
    months = {"first": f"{first:%Y-%m}", "last": f"{first.year + 4}-{first:%m}"}

    async def agreed() -> dict[str, int] | None:
        trial = await staff.get("/api/v1/ledger/trial-balance", book="platform")
        page = await staff.get("/api/v1/ledger/revenue-waterfall", book="platform", **months)
        stands = {row["account"]: row["credit_minor"] - row["debit_minor"] for row in trial["rows"]}
        deferred = stands.get("liability:deferred_revenue", 0)
        earned = stands.get("revenue:flat", 0)
        to_come = sum(cell["to_come_minor"] for cell in page["items"])
        recognized = sum(cell["recognized_minor"] for cell in page["items"])
        agree = (deferred, earned) == (to_come, recognized) and recognized > 0
        return {"deferred": deferred, "earned": earned} if agree else None

    found = await eventually("the waterfall's agreement with the books", agreed)
    await staff.close()
    assert found["deferred"] + found["earned"] == 2 * story.terms.fee_minor


async def test_another_tenant_sees_nothing_by_sql_as_any_services_role(story: Story) -> None:
    seen, looked = await proof.rows_seen(
        story.environment, owner=story.tenant_id, looking_as=story.other_id
    )
    assert seen == 0
    assert looked > 20


async def test_the_owner_itself_is_seen_so_the_look_is_a_real_one(story: Story) -> None:
    seen, _ = await proof.rows_seen(
        story.environment, owner=story.tenant_id, looking_as=story.tenant_id
    )
    assert seen > 20


async def test_sending_everything_again_changes_nothing(story: Story) -> None:
    await proof.settle(story.environment)
    before = await proof.checksums(story.environment)
    assert await proof.resend_webhooks(story.environment) > 5
    await story.send_usage(story.usage)
    await proof.settle(story.environment)
    assert proof.differences(before, await proof.checksums(story.environment)) == []


@pytest.mark.parametrize("clear_inboxes", [False, True])
async def test_a_replay_from_offset_zero_changes_nothing(story: Story, clear_inboxes: bool) -> None:
    await proof.settle(story.environment)
    before = await proof.checksums(story.environment)
    await proof.replay(story.environment, clear_inboxes=clear_inboxes)
    assert proof.differences(before, await proof.checksums(story.environment)) == []
