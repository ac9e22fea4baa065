"""A rotation that does not get on is told of by its age (alert SluiceKeyRotationStuck)."""

from prometheus_client import REGISTRY

from services.tenants import jobs
from tests.services.tenants.conftest import World
from tests.services.tenants.sealed_world import begin, finish

AGE = "sluice_key_rotation_oldest_age_seconds"


def age_of(kind: str) -> float | None:
    return REGISTRY.get_sample_value(AGE, {"kind": kind})


async def test_the_oldest_open_rotation_is_measured(world: World) -> None:
    await world.sign_up("Acme")
    await jobs.measure_rotations(world.database)
    assert (age_of("data"), age_of("master")) == (0, 0)
    rotation_id = await begin(world, "data", tenant="acme")
    async with world.database.maintenance() as tx:
        await tx.execute("update key_rotation set started_at = started_at - interval '2 hours'")
    await jobs.measure_rotations(world.database)
    age = age_of("data")
    assert age is not None
    assert 7200 <= age < 7300
    assert age_of("master") == 0
    await finish(world, rotation_id)
    await jobs.measure_rotations(world.database)
    assert age_of("data") == 0
