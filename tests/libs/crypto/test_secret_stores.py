"""Every secret store keeps the same promises, each on the most real server there is."""

from uuid import uuid4

import pytest

from libs.crypto.errors import (
    MalformedSealedValueError,
    SecretGoneError,
    SecretStoreUnavailableError,
    TamperedSealedValueError,
)
from tests.libs.crypto.conftest import Store

CANARY = b"sk_live_canary_\x00\xff"


async def test_a_secret_is_kept_until_it_is_destroyed(store: Store) -> None:
    named = {"tenant_id": uuid4(), "secret_id": uuid4()}
    reference = await store.secrets.put(*named.values(), CANARY)
    assert reference.startswith(f"{store.name}:")
    assert "canary" not in reference
    assert await store.secrets.get(reference, **named) == CANARY
    await store.secrets.destroy(reference)
    with pytest.raises(SecretGoneError):
        await store.secrets.get(reference, **named)
    await store.secrets.destroy(reference)


async def test_a_reference_opens_in_its_own_row_only(store: Store) -> None:
    mine = {"tenant_id": uuid4(), "secret_id": uuid4()}
    reference = await store.secrets.put(*mine.values(), CANARY)
    for other in (mine | {"tenant_id": uuid4()}, mine | {"secret_id": uuid4()}):
        with pytest.raises(TamperedSealedValueError):
            await store.secrets.get(reference, **other)


@pytest.mark.parametrize(
    "reference",
    ["", "x", "vault:../../x#1", "vault:a#1;b", "file:/etc/passwd#1", "aws:a b#1", "a" * 600],
)
async def test_hostile_references_are_refused(store: Store, reference: str) -> None:
    with pytest.raises((MalformedSealedValueError, TamperedSealedValueError)):
        await store.secrets.get(reference, tenant_id=uuid4(), secret_id=uuid4())
    with pytest.raises((MalformedSealedValueError, TamperedSealedValueError)):
        await store.secrets.destroy(reference)


async def test_putting_again_after_a_lost_answer_is_one_secret(store: Store) -> None:
    named = {"tenant_id": uuid4(), "secret_id": uuid4()}
    await store.secrets.put(*named.values(), CANARY)
    reference = await store.secrets.put(*named.values(), CANARY)
    assert await store.secrets.get(reference, **named) == CANARY


async def test_a_secret_is_forgotten_without_its_reference(store: Store) -> None:
    named, other = [{"tenant_id": uuid4(), "secret_id": uuid4()} for _ in range(2)]
    reference = await store.secrets.put(*named.values(), CANARY)
    kept = await store.secrets.put(*other.values(), CANARY)
    for _ in range(2):
        await store.secrets.forget(**named)
    with pytest.raises(SecretGoneError):
        await store.secrets.get(reference, **named)
    assert await store.secrets.get(kept, **other) == CANARY
    with pytest.raises(SecretStoreUnavailableError):
        await store.away.forget(**other)


async def test_a_store_that_is_away_is_told_apart(store: Store) -> None:
    named = {"tenant_id": uuid4(), "secret_id": uuid4()}
    reference = await store.secrets.put(*named.values(), CANARY)
    for attempt in (
        store.away.put(*named.values(), CANARY),
        store.away.get(reference, **named),
        store.away.destroy(reference),
    ):
        with pytest.raises(SecretStoreUnavailableError) as caught:
            await attempt
        assert "canary" not in str(caught.value)
