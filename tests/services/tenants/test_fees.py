"""The platform's share: set as configuration, told with each connection."""

from typing import Any
from uuid import UUID

import pytest

from libs.contracts.configuration import FeesConfiguration
from libs.contracts.tenants import ConnectionRecord
from libs.directory.configuration import merged
from services.tenants import fees
from tests.services.tenants.sandbox import SDK_WARNING, StripeWorld

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)


async def put(stripe_world: StripeWorld, tenant: str, **values: Any) -> int:
    answer = await stripe_world.world.call(
        "PUT",
        f"/api/v1/tenants/{tenant}/config/fees",
        json={"values": values},
        headers={"If-Match": "*"},
    )
    return answer.status_code


def told(stripe_world: StripeWorld, tenant: str) -> tuple[int | None, int | None, str | None]:
    record: ConnectionRecord
    (record,) = stripe_world.world.snapshot(tenant).connections
    return (
        record.application_fee_basis_points,
        record.application_fee_fixed_minor,
        record.application_fee_currency,
    )


async def test_fees_are_told_with_the_connection(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    fixed = {"application_fee_fixed_minor": 30, "application_fee_currency": "EUR"}
    assert await put(stripe_world, tenant, application_fee_basis_points=250, **fixed) == 200
    assert (await stripe_world.start_oauth(key)).status_code == 200
    assert told(stripe_world, tenant) == (250, 30, "EUR")
    # A change is told in its own commit, with the same record.
    assert await put(stripe_world, tenant, application_fee_basis_points=100) == 200
    assert told(stripe_world, tenant) == (100, None, None)
    assert await put(stripe_world, tenant) == 200
    assert told(stripe_world, tenant) == (None, None, None)


async def test_what_the_platform_sets_holds_where_nothing_else_does(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    other, others_key = await stripe_world.tenant("Globex")
    for each in (key, others_key):
        assert (await stripe_world.start_oauth(each)).status_code == 200
    assert await put(stripe_world, other, application_fee_basis_points=50) == 200
    assert await put(stripe_world, "platform", application_fee_basis_points=300) == 200
    await fees.run_once(stripe_world.world.database)
    await stripe_world.world.settle()
    assert told(stripe_world, tenant) == (300, None, None)
    assert told(stripe_world, other) == (50, None, None)
    version = stripe_world.world.snapshot(tenant).version
    await fees.run_once(stripe_world.world.database)
    await stripe_world.world.settle()
    assert stripe_world.world.snapshot(tenant).version == version


async def test_a_connection_from_before_takes_its_fee(stripe_world: StripeWorld) -> None:
    """Its tenant had set one when nothing was copied yet."""
    tenant, key = await stripe_world.tenant("Acme")
    assert (await stripe_world.start_oauth(key)).status_code == 200
    assert await put(stripe_world, tenant, application_fee_basis_points=250) == 200
    async with stripe_world.world.database.tenant(UUID(tenant), None) as tx:
        await tx.execute(
            "update stripe_connection set application_fee_basis_points = null, "
            "platform_fees_version = null"
        )
    await fees.run_once(stripe_world.world.database)
    await stripe_world.world.settle()
    assert told(stripe_world, tenant) == (250, None, None)


@pytest.mark.parametrize(
    "values",
    [
        {"application_fee_fixed_minor": 30},
        {"application_fee_currency": "EUR"},
        {"application_fee_fixed_minor": 30, "application_fee_currency": None},
        {"application_fee_fixed_minor": -1, "application_fee_currency": "EUR"},
        {"application_fee_fixed_minor": 1.5, "application_fee_currency": "EUR"},
        {"application_fee_fixed_minor": 2_000_000_000, "application_fee_currency": "EUR"},
        {"application_fee_fixed_minor": 30, "application_fee_currency": "euro"},
        {"application_fee_basis_points": 10_001},
    ],
)
async def test_bad_fees_are_refused(stripe_world: StripeWorld, values: dict[str, Any]) -> None:
    tenant, _ = await stripe_world.tenant("Acme")
    assert await put(stripe_world, tenant, **values) == 422


def test_what_does_not_go_together_counts_as_not_set() -> None:
    assert merged(FeesConfiguration, {"application_fee_currency": "EUR"}) == FeesConfiguration()
