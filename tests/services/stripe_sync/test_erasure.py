"""A customer that is erased: payments stay, and say no more who paid."""

from libs.contracts.billing import CustomerErased
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.paying import open_shop, sealed_name


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


async def test_a_customer_of_a_tenants_is_forgotten_whenever_its_name_is_told(world: World) -> None:
    shop = await open_shop(world, "RAW_KEYS")
    wish = {"description": "For Ada", "receipt_email": "ada@people.example"}
    paid, again = [await shop.pay("order-1", **wish) for _ in range(2)]
    assert (paid.status_code, paid.json()) == (201, again.json())
    assert again.headers["idempotent-replayed"] == "true"
    await world.publish(CustomerErased(customer_id=shop.customer_id), shop.tenant.id)
    await shop.take_webhooks()
    for table in (
        *("known_customer", "customer_link", "payment", "payment_request", "stripe_object"),
        "idempotency_key",
    ):
        kept = str(await world.rows(table))
        assert "Ada" not in kept, table
        assert "ada@" not in kept, table
    # Told once more under another key, as by somebody who tells everything again: it is not kept.
    await world.publish(sealed_name(shop.customer_id, "Ada"), shop.tenant.id)
    (known,) = await world.rows("known_customer")
    assert (known["name"], known["personal"], known["wrapped"]) == (None, None, None)
    again = await shop.pay("order-1", **wish)
    assert [again.json()[name] for name in wish] == [None, None]
    before = await world.checksum()
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        await world.settle()
        assert await world.checksum() == before
    async with world.database.tenant(world.tenants["globex"].id, "test") as tx:
        for table in ("known_customer", "payment_request", "payment_link"):
            assert await tx.fetchval(f"select count(*) from {table}") == 0
