"""Going live gives a tenant its live side: the same self customer, on the free plan."""

import pytest

from billing.story import Story
from billing.test_story import begin, checksums
from libs.contracts.billing import CustomerCreated, SubscriptionChanged
from libs.contracts.envelope import wrap
from libs.contracts.tenants import TenantWentLive
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import EPOCH, MemoryLog


async def go_live(story: Story) -> None:
    fact = TenantWentLive(
        name="acme",
        slug="acme",
        tenant_type="organization",
        currency="EUR",
        locale="en",
        self_customer_id=story.customer_id,
    )
    event = wrap(fact, tenant_id=story.tenant_id, mode="live", source="tenants", effective_at=EPOCH)
    story.log.publish(event)
    story.log.publish(event.model_copy(update={"id": new_id()}))
    await story.log.settle()


async def test_the_live_side_is_its_own(billing: Database, log: MemoryLog) -> None:
    story = await begin(billing, log)
    await story.tell_all()
    await go_live(story)
    customers = story.told(CustomerCreated)
    assert [event.mode for event in customers] == ["test", "live"]
    assert {event.data.customer_id for event in customers} == {story.customer_id}
    changes = story.told(SubscriptionChanged)
    assert [(event.mode, event.data.plan_key) for event in changes] == [
        ("test", "free"),
        ("test", "pro"),
        ("test", "pro"),
        ("live", "free"),
    ]
    assert changes[-1].data.subscription_id != changes[0].data.subscription_id
    assert changes[-1].data.status == "active"


async def test_going_live_may_come_before_the_sign_up(billing: Database, log: MemoryLog) -> None:
    story = await begin(billing, log)
    await go_live(story)
    await story.tell_all()
    modes = [event.mode for event in story.told(CustomerCreated)]
    assert modes == ["live", "test"]


@pytest.mark.parametrize("clear_inboxes", [False, True])
async def test_replay_changes_nothing(
    billing: Database, log: MemoryLog, database: TestDatabase, *, clear_inboxes: bool
) -> None:
    story = await begin(billing, log)
    await story.tell_all()
    await go_live(story)
    before = await checksums(database)
    await log.replay(clear_inboxes=clear_inboxes)
    assert await checksums(database) == before
