"""Quarantine: a warning at first, an error once when an account stays unknown, and a figure."""

from datetime import timedelta
from typing import Any

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from libs.clock import utc_now
from libs.directory.local import Directory
from services.gateway import jobs, quarantine
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import CONNECT, CURRENT, GLOBEX, Gateway, snapshot_event

LATER = timedelta(minutes=6)


def counted(reason: str) -> float | None:
    """What the gauge shows."""
    return REGISTRY.get_sample_value("sluice_webhooks_quarantined_records", {"reason": reason})


def levels(logs: list[Any], event: str) -> list[str]:
    """The levels at which something was said."""
    return [entry["log_level"] for entry in logs if entry["event"] == event]


def authorized(account: str) -> dict[str, Any]:
    """What Connect sends of itself before the tenant has come back from Stripe's page."""
    subject = {"id": "ca_1", "object": "application"}
    return snapshot_event(
        type="account.application.authorized", account=account, data={"object": subject}
    )


async def test_an_account_that_is_known_in_time_is_no_error(gateway: Gateway) -> None:
    with capture_logs() as logs:
        await gateway.send(authorized("acct_globex"), secret=CONNECT)
        await quarantine.tell(gateway.database, utc_now())
        await Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD").tell()
        await jobs.release_quarantined(gateway.database)
        await quarantine.tell(gateway.database, utc_now() + LATER)
    assert levels(logs, "webhook_quarantined") == ["warning"]
    assert levels(logs, "webhooks_of_an_unknown_account") == []
    assert counted("unknown_account") == 0


async def test_an_account_that_stays_unknown_is_one_error(gateway: Gateway) -> None:
    for _ in range(3):
        await gateway.send(authorized("acct_stranger"), secret=CONNECT)
    await gateway.send(authorized("acct_other"), secret=CONNECT)
    with capture_logs() as logs:
        await quarantine.tell(gateway.database, utc_now())
        assert counted("unknown_account") == 0
        for minutes in (6, 7, 60):
            await quarantine.tell(gateway.database, utc_now() + timedelta(minutes=minutes))
    assert levels(logs, "webhooks_of_an_unknown_account") == ["error", "error"]
    assert {entry["account"] for entry in logs} == {"acct_stranger", "acct_other"}
    assert counted("unknown_account") == 4


async def test_unknown_again_is_told_again(gateway: Gateway) -> None:
    own = Own(gateway, GLOBEX, "globex", "acct_moves", kind="CONNECT_STANDARD")
    with capture_logs() as logs:
        for _ in range(2):
            await gateway.send(authorized("acct_moves"), secret=CONNECT)
            await quarantine.tell(gateway.database, utc_now() + LATER)
            await own.tell()
            await jobs.release_quarantined(gateway.database)
            await own.tell(status="REVOKED")
            gateway.app.state.directory = Directory(gateway.database)
    assert levels(logs, "webhooks_of_an_unknown_account") == ["error", "error"]


async def test_what_no_secret_stands_for_is_an_error_at_once(gateway: Gateway) -> None:
    with capture_logs() as logs:
        await gateway.send(snapshot_event(livemode=True))
        await gateway.send(snapshot_event(), secret=CONNECT)
        await quarantine.tell(gateway.database, utc_now())
    assert levels(logs, "webhook_quarantined") == ["error", "error"]
    assert (counted("livemode_mismatch"), counted("account_missing")) == (1, 1)
    assert counted("account_unexpected") == 0


async def test_what_could_not_be_believed_keeps_out_nothing_that_can(gateway: Gateway) -> None:
    # Given secrets that were exchanged, so that all events were kept aside,
    await Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD").tell()
    own, connected = snapshot_event(), snapshot_event(account="acct_globex")
    for event, secret in ((own, CONNECT), (connected, CURRENT)):
        for status in ("quarantined", "duplicate"):
            assert (await gateway.send(event, secret=secret)).json() == {"status": status}
    assert await gateway.published() == []
    # when Stripe sends them again, signed with the right ones,
    for event, secret in ((own, CURRENT), (connected, CONNECT)):
        for status in ("stored", "duplicate"):
            assert (await gateway.send(event, secret=secret)).json() == {"status": status}
    # then each is published once.
    published = [event["data"]["stripe_event_id"] for _, _, event in await gateway.published()]
    assert published == [own["id"], connected["id"]]
