"""Whose account a tenant's customers pay into."""

from uuid import UUID

import pytest

from libs.contracts.envelope import Mode
from libs.contracts.tenants import ConnectionRecord, TenantSnapshot
from libs.directory.local import Tenant
from libs.settings import StripeSettings
from libs.web.connections import StripeNotConnected, needs_connection

ACME = UUID("01900000-0000-7000-8000-000000000001")


def tenant(**connection: object) -> Tenant:
    """A tenant, with a connection in test mode where fields are given."""
    values = {
        "connection_id": UUID(int=7),
        "mode": "test",
        "kind": "RAW_KEYS",
        "status": "CONNECTED",
        "account_id": "acct_1",
    }
    connections = (ConnectionRecord.model_validate(values | connection),) if connection else ()
    snapshot = TenantSnapshot(
        version=1,
        slug="acme",
        name="Acme",
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=UUID(int=8),
        connections=connections,
    )
    return Tenant(ACME, snapshot)


def settings(rule: str, listed: str = "") -> StripeSettings:
    return StripeSettings(
        SLUICE_PLATFORM_FALLBACK=rule,
        SLUICE_PLATFORM_FALLBACK_TENANTS=listed,
    )


@pytest.mark.parametrize(
    ("rule", "listed", "mode", "allowed"),
    [
        ("off", "acme", "test", False),
        ("listed", "", "test", False),
        ("listed", "globex, ACME ", "test", True),
        ("listed", str(ACME), "live", True),
        ("test", "", "test", True),
        ("test", "acme", "live", False),
    ],
)
def test_the_platform_stands_in_where_the_setting_lets_it(
    rule: str, listed: str, mode: Mode, allowed: bool
) -> None:
    if allowed:
        assert needs_connection(tenant(), mode, settings(rule, listed)) is None
        return
    with pytest.raises(StripeNotConnected) as refused:
        needs_connection(tenant(), mode, settings(rule, listed))
    body = refused.value.body()
    assert (body["code"], body["status"]) == ("stripe_not_connected", 409)
    assert body["connect_url"] == "/settings/stripe"
    assert body["detail"].startswith("Connect Stripe first")


@pytest.mark.parametrize("status", ["NOT_CONNECTED", "PENDING", "REVOKED"])
def test_an_account_that_is_not_connected_is_none(status: str) -> None:
    assert needs_connection(tenant(status=status), "test", settings("test")) is None
    with pytest.raises(StripeNotConnected):
        needs_connection(tenant(status=status), "test", settings("off"))


def test_the_tenants_own_account_comes_first_and_is_never_replaced() -> None:
    found = needs_connection(tenant(status="CONNECTED"), "test", settings("test"))
    assert found is not None
    assert found.account_id == "acct_1"
    for broken in ({"is_active": False}, {"key_valid": False}, {"account_id": None}):
        with pytest.raises(StripeNotConnected):
            needs_connection(tenant(**broken), "test", settings("test"))
