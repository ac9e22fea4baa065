"""What waits of an account that has moved goes to the tenant whose record named it last."""

import pytest

from services.gateway import jobs
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import ACME, CONNECT, GLOBEX, Gateway
from tests.services.gateway.test_quarantine import authorized

MOVED = "acct_moves"


@pytest.mark.parametrize("left_first", [True, False])
async def test_what_waits_goes_to_who_has_the_account_now(
    gateway: Gateway, left_first: bool
) -> None:
    await gateway.send(authorized(MOVED), secret=CONNECT)
    before = Own(gateway, ACME, "acme", MOVED, kind="CONNECT_STANDARD")
    after = Own(gateway, GLOBEX, "globex", MOVED, kind="CONNECT_STANDARD")
    await before.tell()
    if left_first:
        await before.tell(account_id=None)
    await after.tell()
    if not left_first:
        # The record of having left is still on its way here.
        await jobs.release_quarantined(gateway.database)
        await before.tell(account_id=None)
    await jobs.release_quarantined(gateway.database)
    (event,) = await gateway.archived()
    assert event["tenant_id"] == GLOBEX
    assert event["quarantine_reason"] is None
