"""A customer that is erased: payments stay, and say no more who paid."""

from libs.contracts.billing import CustomerErased
from tests.services.stripe_sync.conftest import World


async def test_a_payer_is_forgotten_and_stays_so(world: World) -> None:
    acme = world.tenants["acme"]
    await world.plan()
    await world.subscribe(acme)
    async with world.test_database.admin() as admin:
        await admin.execute("update stripe_sync.payment set receipt_email = 'ada@people.example'")
    (before,) = await world.rows("payment")
    assert before["receipt_email"] == "ada@people.example"
    erased = CustomerErased(customer_id=before["customer_id"])
    for _ in range(2):
        await world.publish(erased, acme.id)
        await world.settle()
    (after,) = await world.rows("payment")
    changed = {name for name, value in before.items() if after[name] != value}
    assert changed <= {"receipt_email", "receipt_url", "description"}
    assert after["description"] is None
    assert (after["receipt_email"], after["receipt_url"]) == (None, None)
    for table in ("customer_link", "checkout_session"):
        assert "@" not in str([row["request"] for row in await world.rows(table)])
    # What comes in later is forgotten as it comes.
    async with world.test_database.admin() as admin:
        await admin.execute("update stripe_sync.payment set receipt_email = 'ada@people.example'")
    assert [row["receipt_email"] for row in await world.rows("payment")] == [None]
