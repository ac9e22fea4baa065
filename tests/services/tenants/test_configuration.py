"""Configuration: checked, versioned, audited, told to everybody, and no place for secrets."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.contracts.configuration import NAMESPACES, BillingConfiguration, BrandingConfiguration
from libs.contracts.tenants import PLATFORM_TENANT_ID, TenantSnapshot
from libs.directory.configuration import effective, merged
from libs.testing.databases import TestDatabase
from services.tenants import configuration
from services.tenants.roles import SCOPES
from tenants.conftest import World, checksums

CONFIG = "/api/v1/tenants/acme/config"


async def put(
    world: World, namespace: str, values: Any, *, match: str | None = None, **parts: Any
) -> httpx.Response:
    headers = {"If-Match": match} if match is not None else {}
    body = {"values": values}
    return await world.call("PUT", f"{CONFIG}/{namespace}", json=body, headers=headers, **parts)


async def get(world: World, namespace: str, tenant: str = "acme", **parts: Any) -> dict[str, Any]:
    answer = await world.call("GET", f"/api/v1/tenants/{tenant}/config/{namespace}", **parts)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert answer.headers["ETag"] == f'"{body["version"]}"'
    return body


async def test_what_is_set_holds_everywhere(world: World) -> None:
    acme = await world.sign_up("Acme")
    before = await get(world, "billing")
    assert (before["version"], before["values"], before["changed_by"]) == (0, {}, None)
    assert before["effective"] == BillingConfiguration().model_dump(mode="json")
    answer = await put(world, "billing", {"net_terms_days": 14})
    assert answer.status_code == 200, answer.text
    assert answer.headers["ETag"] == '"1"'
    record = world.snapshot(acme["id"])
    assert answer.headers["Sluice-Version"] == f"{acme['id']}:{record.version}"
    (told,) = record.config
    assert (told.namespace, told.version, told.values) == ("billing", 1, {"net_terms_days": 14})
    after = await get(world, "billing")
    assert after["effective"] == before["effective"] | {"net_terms_days": 14}
    assert after["changed_by"].startswith("key_")
    tenant = await world.app.state.directory.by_reference("acme")
    held = await effective(world.app.state.directory, tenant, BillingConfiguration)
    assert (held.net_terms_days, held.draft_grace_hours) == (14, 1)


async def test_the_platforms_own_setting_is_everybodys_default(world: World) -> None:
    await world.sign_up("Acme")
    path = "/api/v1/tenants/platform/config"
    values = {"net_terms_days": 7, "invoice_footer": "Thank you"}
    assert (await world.call("PUT", f"{path}/billing", json={"values": values})).status_code == 200
    own = {"values": {"tone": "formal"}}
    assert (await world.call("PUT", f"{path}/custom.mail", json=own)).status_code == 200
    await put(world, "billing", {"net_terms_days": 60})
    held = (await get(world, "billing"))["effective"]
    assert (held["net_terms_days"], held["invoice_footer"]) == (60, "Thank you")
    assert (await get(world, "custom.mail"))["effective"] == {"tone": "formal"}
    directory = world.app.state.directory
    tenant = await directory.by_reference("acme")
    seen = await effective(directory, tenant, BillingConfiguration)
    assert (seen.net_terms_days, seen.invoice_footer) == (60, "Thank you")
    assert (await get(world, "billing", "platform"))["effective"]["net_terms_days"] == 7


async def test_a_change_names_the_version_it_replaces(world: World) -> None:
    await world.sign_up("Acme")
    assert (await put(world, "branding", {}, match='"3"')).status_code == 412
    assert (await put(world, "branding", {"display_name": "A"}, match='"0"')).status_code == 200
    answer = await put(world, "branding", {"display_name": "B"})
    assert (answer.status_code, answer.json()["code"]) == (428, "precondition_required")
    for stale in ('"0"', '"2"', "1", 'W/"1"', '"1", "2"', '"x"', ""):
        answer = await put(world, "branding", {"display_name": "B"}, match=stale)
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed"), stale
    once = {"headers": {"If-None-Match": "*"}}
    path, body = f"{CONFIG}/branding", {"values": {"display_name": "B"}}
    assert (await world.call("PUT", path, json=body, **once)).status_code == 412
    assert (await put(world, "branding", {"display_name": "B"}, match='"1"')).status_code == 200
    assert (await put(world, "branding", {"display_name": "C"}, match="*")).status_code == 200
    assert (await get(world, "branding"))["version"] == 3
    versions = (await world.call("GET", f"{path}/versions", params={"limit": 2})).json()
    assert [item["values"]["display_name"] for item in versions["items"]] == ["C", "B"]
    params = {"limit": 2, "cursor": versions["next_cursor"]}
    rest = (await world.call("GET", f"{path}/versions", params=params)).json()
    assert [item["version"] for item in rest["items"]] == [1]
    assert rest["next_cursor"] is None


async def test_two_editors_do_not_overwrite_each_other(world: World) -> None:
    await world.sign_up("Acme")
    await put(world, "branding", {"display_name": "A"})
    headers = {"Authorization": f"Bearer {world.operator}", "If-Match": '"1"'}
    answers = await asyncio.gather(
        *(
            world.client.put(
                f"{CONFIG}/branding", json={"values": {"display_name": name}}, headers=headers
            )
            for name in "BCDEF"
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]
    await world.settle()
    assert (await get(world, "branding"))["version"] == 2


async def test_the_same_values_make_no_version(world: World) -> None:
    acme = await world.sign_up("Acme")
    await put(world, "branding", {"display_name": "A"})
    version = world.snapshot(acme["id"]).version
    assert (await put(world, "branding", {"display_name": "A"}, match='"1"')).status_code == 200
    assert (await get(world, "branding"))["version"] == 1
    assert world.snapshot(acme["id"]).version == version


REFUSED: dict[str, list[Any]] = {
    "billing": [
        {"net_terms_days": -1},
        {"net_terms_days": 30.5},
        {"net_terms_days": "30"},
        {"net_terms_days": True},
        {"net_terms_days": None},
        {"net_terms_day": 30},
        {"dunning_retry_days": [3, 1]},
        {"dunning_retry_days": list(range(1, 20))},
        {"statement_descriptor": "abcd"},
        {"statement_descriptor": "A" * 23},
        {"statement_descriptor": "12345"},
        {"statement_descriptor": "ACME * GmbH"},
        {"invoice_footer": "two\nlines"},
        {"invoice_footer": "a\u0000b"},
        {"invoice_footer": "pay with sk_live_aaaaaaaaaaaaaaaaaaaaaaaa"},
    ],
    "branding": [
        {"primary_color": "red"},
        {"primary_color": "#12345"},
        {"support_email": "nobody"},
        {"support_email": "a@b.example\r\nBcc: c@d.example"},
        *(
            {"logo_url": url}
            for url in (
                "http://example.com/logo.png",
                "https://localhost/logo.png",
                "https://127.0.0.1/logo.png",
                "https://127.1/logo.png",
                "https://2130706433/logo.png",
                "https://0x7f.1/logo.png",
                "https://example.0x7f000001/logo.png",
                "https://169.254.169.254/latest/meta-data",
                "https://[::1]/logo.png",
                "https://[::ffff:169.254.169.254]/",
                "https://metadata.google.internal/computeMetadata",
                "https://printer.local/x.png",
                "https://intranet/x.png",
                "https://user:pass@example.com/x.png",
                "https://example.com@127.0.0.1/x.png",
                "https://example.com\\@127.0.0.1/x.png",
                "https://example.com:8443/x.png",
                "https://example.com:99999/x.png",
                "https://exämple.com/x.png",
                "https://example.com/x y.png",
                "https://example.com/x.png#part",
                "https:///x.png",
                "https://-a.example/x.png",
                "javascript:alert(1)",
                "file:///etc/passwd",
                "data:image/png;base64,AAAA",
                "//example.com/x.png",
                "https://example.com/" + "a" * 500,
            )
        ),
    ],
    "metering": [
        {"late_event_days": 35},
        {"late_event_days": 0},
        {"time_zone": "Europe/Atlantis"},
        {"time_zone": "../../etc/passwd"},
        {"time_zone": None},
    ],
    "capacity": [{"usage_partitions": 0}, {"usage_partitions": 13}],
    "notifications": [{"recipients": ["a@b.example"]}, {"limit_thresholds_percent": [80, 80]}],
    "fees": [{"application_fee_basis_points": 10_001}],
    "custom.any": [
        {"a": "x" * 2_001},
        {"": 1},
        {"a" * 101: 1},
        {"a": 2**53},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}},
        {"a": list(range(501))},
        {"a": ["x" * 1_900] * 9},
        {"a\u0000": 1},
        {"note": "whsec_0123456789abcdefghij"},
        {"api_key": "anything"},
        {"nested": {"password": "hunter2"}},
        {"card": "4242 4242 4242 4242"},
        {"contact": "ada@acme.example"},
    ],
}
RAW = ['{"values": {"a": NaN}}', '{"values": {"a": 1e400}}', '{"values": {"a": "\\ud800"}}']


async def test_what_a_namespace_does_not_take_changes_nothing(world: World) -> None:
    acme = await world.sign_up("Acme")
    version = world.snapshot(acme["id"]).version
    for namespace, bad in REFUSED.items():
        for values in bad:
            answer = await put(world, namespace, values)
            assert answer.status_code == 422, (namespace, values, answer.text)
            assert answer.json()["fields"], values
            for leaf in values.values():
                assert not isinstance(leaf, str) or len(leaf) < 12 or leaf not in answer.text
    for raw in RAW:
        headers = {"Content-Type": "application/json"}
        answer = await world.call("PUT", f"{CONFIG}/custom.any", content=raw, headers=headers)
        assert answer.status_code in (400, 422), (raw, answer.text)
    for body in ([], {"values": []}, {"values": {}, "version": 9}, {}):
        answer = await world.call("PUT", f"{CONFIG}/billing", json=body)
        assert answer.status_code == 422, body
    for namespace in ("unknown", "custom.", "custom.A", "custom.a-b", "custom." + "a" * 50):
        answer = await put(world, namespace, {})
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_namespace")
    assert world.snapshot(acme["id"]).version == version


async def test_good_values_are_taken(world: World) -> None:
    acme = await world.sign_up("Acme")
    good: dict[str, Any] = {
        "billing": {"dunning_retry_days": [1, 2, 3], "statement_descriptor": "ACME SHOP"},
        "branding": {
            "logo_url": "https://cdn.acme.example/logo.png?v=2",
            "support_email": "help@acme.example",
            "accent_color": "#00ff00",
        },
        "metering": {"late_event_days": 7, "time_zone": "America/Argentina/Buenos_Aires"},
        "notifications": {"limit_thresholds_percent": [50], "payments": False},
        "fees": {"application_fee_basis_points": 250},
        "capacity": {"usage_partitions": 4},
        "custom.any": {"a": [1, "zwei", None, True, 1.5, {"b": "🙂"}], "token_count": "12"},
    }
    for namespace, values in good.items():
        answer = await put(world, namespace, values)
        assert answer.status_code == 200, (namespace, answer.text)
        assert answer.json()["values"] == values
    assert {each.namespace: each.values for each in world.snapshot(acme["id"]).config} == good
    listed = (await world.call("GET", CONFIG)).json()["items"]
    assert [item["namespace"] for item in listed] == [*NAMESPACES, "custom.any"]
    assert all(item["values"] == good[item["namespace"]] for item in listed)
    assert listed[0]["json_schema"]["properties"]["net_terms_days"]["maximum"] == 365
    answer = await put(world, "custom.any", {}, match='"1"')
    assert answer.status_code == 200
    assert "custom.any" not in {each.namespace for each in world.snapshot(acme["id"]).config}


async def test_who_may_change_what(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    manager = await world.make_key("acme", "billing:manage", "tenants:read")
    reader = await world.make_key("acme", "tenants:read", "members:manage")
    stranger = await world.make_key("globex", *SCOPES)
    assert (await put(world, "billing", {"net_terms_days": 1}, key=manager)).status_code == 200
    answer = await put(world, "billing", {"net_terms_days": 2}, key=reader, match='"1"')
    assert (answer.status_code, answer.json()["permission"]) == (403, "billing:manage")
    answer = await put(world, "fees", {"application_fee_basis_points": 0}, key=manager)
    assert (answer.status_code, answer.json()["permission"]) == (403, "operator")
    assert (await get(world, "fees", key=reader))["operator_only"]
    for path in (f"{CONFIG}/billing", CONFIG, f"{CONFIG}/billing/versions"):
        answer = await world.call("GET", path, key=stranger)
        assert answer.status_code == 403
    assert (await put(world, "billing", {}, key=stranger)).status_code == 403
    denied = [e.data.kind for e in world.log.events(SecurityEventRaised)]
    assert denied.count("permission_denied") == 2
    assert denied.count("tenant_denied") == 4


async def test_a_change_is_audited_without_what_free_json_holds(world: World) -> None:
    await world.sign_up("Acme")
    await put(world, "billing", {"net_terms_days": 14})
    await put(world, "billing", {"net_terms_days": 21, "draft_grace_hours": 2}, match='"1"')
    await put(world, "custom.any", {"hint": "walnut-canary"})
    changes = [
        e.data
        for e in world.log.events(ConfigurationChanged)
        if e.data.action == "configuration.changed"
    ]
    assert (changes[1].object_id, changes[1].before, changes[1].after) == (
        "billing",
        {"version": 1, "net_terms_days": 14, "draft_grace_hours": None},
        {"version": 2, "net_terms_days": 21, "draft_grace_hours": 2},
    )
    assert changes[2].after == {"version": 1, "changed": "hint"}


async def test_the_record_stays_small_whatever_a_tenant_sets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = await world.sign_up("Acme")
    values = {f"name_{n}": "ü" * 900 for n in range(8)}
    answers = [await put(world, f"custom.n{n}", values) for n in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 409]
    assert answers[-1].json()["code"] == "configuration_too_large"
    (told, *_) = [
        record
        for record in reversed(world.log.topics["tenants.directory"])
        if record.key_text == acme["id"]
    ]
    assert len(told.value or b"") < 80 * 1024
    monkeypatch.setattr(configuration, "CUSTOM_MAX", 4)
    assert (await put(world, "custom.small", {"a": 1})).status_code == 409
    assert (await put(world, "custom.n0", {}, match='"1"')).status_code == 200
    assert (await put(world, "custom.small", {"a": 1})).status_code == 200


def test_what_was_saved_by_another_version_of_the_code_never_fails() -> None:
    old = {"primary_color": "teal", "accent_color": "#000000", "gone": 1}
    assert merged(BrandingConfiguration, old) == BrandingConfiguration(accent_color="#000000")


async def test_the_database_keeps_every_version(world: World, database: TestDatabase) -> None:
    acme = await world.sign_up("Acme")
    await put(world, "billing", {"net_terms_days": 14})
    for statement in ("update tenant_config set version = 9", "delete from tenant_config"):
        with pytest.raises(Exception, match="permission denied"):
            async with world.database.tenant(UUID(acme["id"]), None) as tx:
                await tx.execute(statement)
    async with world.database.tenant(PLATFORM_TENANT_ID, None) as tx:
        assert await tx.fetch("select from tenant_config") == []
    before = await checksums(database)
    await world.log.replay(clear_inboxes=True)
    assert await checksums(database) == before
    assert len(world.log.events(TenantSnapshot)) > 0


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://account.acme.example/billing", 200),
        (None, 200),
        ("http://account.acme.example", 422),
        ("https://127.0.0.1/billing", 422),
        ("https://user@acme.example", 422),
        ("javascript:alert(1)", 422),
    ],
)
async def test_a_portal_of_the_tenants_own_is_a_public_https_address(
    world: World, url: str | None, status: int
) -> None:
    await world.sign_up("Acme")
    assert (await put(world, "billing", {"portal_url": url})).status_code == status
