"""What the audit log is told: where from is filled in, secrets and personal data are taken out."""

import json
from uuid import UUID

import pytest

from libs.contracts.audit import ConfigurationChanged, KeyUsed, SecurityEventRaised
from libs.messaging.told import told
from libs.observability.redaction import is_secret_name
from libs.observability.remote import serving

SECRET_FIELDS = (
    "stripe_secret_key",
    "webhook_secret",
    "password",
    "new_password",
    "client_secret",
    "token",
    "invitation_token",
    "api_key",
    "apiKey",
    "X-API-Key",
    "private_key",
    "signing_key",
    "data_key",
    "master_keys",
    "operator_key",
    "authorization",
    "cookie",
    "credentials",
    "pepper",
    "dsn",
    "card_number",
    "account_number",
    "cvc",
    "assertion",
)
SECRET_TEXTS = (
    "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "rk_test_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "whsec_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "slk_test_" + "abcdefghijkl" + "mnopqrstuvwxyz0123456789",
    "sla1.kid.body.signature-signature",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "Bearer abcdefghijklmnop",
    "postgresql://u:hunter2hunter2@db/x",
    "password=hunter2hunter2",
    "4242 4242 4242 4242",
    "ada.lovelace@acme.example",
)


@pytest.mark.parametrize("name", SECRET_FIELDS)
def test_no_secret_field_leaves(name: str) -> None:
    assert is_secret_name(name)
    change = ConfigurationChanged(
        action="a.b", actor="x", object_id="o", before={name: "hunter2"}, after={name: "hunter3"}
    )
    assert "hunter" not in told(change).model_dump_json()


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_no_secret_text_leaves_under_any_name(text: str) -> None:
    change = ConfigurationChanged(
        action="a.b", actor="x", object_id="o", after={"note": f"it is {text} indeed"}
    )
    raised = SecurityEventRaised(
        kind="k", severity="info", actor="x", service="s", method="GET", path=f"/a/{text}"
    )
    secret = text.rsplit(maxsplit=1)[-1][-8:]
    for fact in (change, raised):
        said = told(fact)
        assert secret not in json.dumps(said.model_dump(mode="json"))


def test_what_is_no_secret_stays() -> None:
    after = {"name": "Pro", "scopes": "billing:read", "prefix": "slk", "amount": 5, "on": True}
    change = ConfigurationChanged(
        action="a.b", actor="x", object_id=str(UUID(int=7)), before=None, after=after
    )
    assert told(change) == change


def test_where_from_is_filled_in_and_never_overwritten() -> None:
    change = ConfigurationChanged(action="a.b", actor="x", object_id="o")
    assert told(change).remote_address is None
    with serving("203.0.113.9"):
        assert told(change).remote_address == "203.0.113.9"
        given = change.model_copy(update={"remote_address": "198.51.100.1"})
        assert told(given).remote_address == "198.51.100.1"
    assert told(change).remote_address is None


def test_other_facts_pass_as_they_are() -> None:
    fact = KeyUsed.model_validate(
        {
            "kind": "api_key",
            "object_id": "o",
            "version": 1,
            "service": "s",
            "used_at": "2026-01-01T00:00:00Z",
        }
    )
    assert told(fact) is fact
