"""A tenant's own customers: entered once, found by their key, their e-mail told to nobody."""

import asyncio
from base64 import b64decode
from uuid import UUID

import httpx
import pytest

from billing.test_api import PEPPER, Api, api, story
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import NAME_NOT_TOLD, CustomerCreated, NameCustomer
from libs.contracts.envelope import Fact
from libs.crypto.personal import PersonalKeys
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog

__all__ = ("api", "story")


async def enter(api: Api, key: str | None = None, /, **body: object) -> httpx.Response:
    return await api.post("/api/v1/customers", key or api.acme, {"name": "Ada Lovelace"} | body)


async def test_a_customer_is_entered_and_its_name_told_sealed(
    api: Api,
    log: MemoryLog,
) -> None:
    body = {
        "email": "ada@people.example",
        "key": "crm-17",
        "currency": "USD",
        "metadata": {"order": "1"},
    }
    answer = await enter(api, **body)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert {name: made[name] for name in body} == body
    assert (made["billed_by"], made["stripe_customer_id"]) == ("tenant", None)
    assert (await api.get(f"/api/v1/customers/{made['id']}", api.acme)).json() == made
    assert (await api.get(f"/api/v1/customers/{made['id']}", api.globex)).status_code == 404
    await log.settle()
    told = [event for event in log.events(CustomerCreated) if event.data.billed_by == "tenant"]
    assert [(event.data.name, event.data.email) for event in told] == [(NAME_NOT_TOLD, None)]
    assert made["id"].endswith(str(told[0].data.customer_id))
    for event in log.events(CustomerCreated):
        OfTheReleaseBefore.model_validate_json(event.data.model_dump_json())
    (named,) = [event.data for event in log.events(NameCustomer)]
    personal, wrapped = b64decode(named.personal), b64decode(named.wrapped)
    opened = PersonalKeys(PEPPER).open(personal, wrapped, told[0].data.customer_id)
    assert opened == {"name": "Ada Lovelace"}
    for topic, records in log.topics.items():
        told_of = b"".join(record.value or b"" for record in records)
        assert b"lovelace" not in told_of.lower(), topic
    changes = [e.data for e in log.events(ConfigurationChanged) if e.data.action.startswith("cust")]
    assert [(c.action, c.object_id) for c in changes] == [("customer.created", made["id"])]
    assert "ada" not in " ".join(c.model_dump_json() for c in changes).lower()


class OfTheReleaseBefore(Fact):
    """`CustomerCreated` as the release before has it, which may run beside this one."""

    customer_id: UUID
    billed_by: str
    name: str
    email: str | None = None


async def test_a_key_names_one_customer_of_a_tenant(api: Api) -> None:
    answers = await asyncio.gather(*(enter(api, key="crm-1") for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["code"] == "customer_key_taken"
    assert (await enter(api, api.globex, key="crm-1")).status_code == 201
    assert {(await enter(api)).status_code for _ in range(2)} == {201}


async def test_the_same_request_again_enters_nobody_twice(api: Api, database: TestDatabase) -> None:
    headers = {"Idempotency_Key": "new-1"}
    seat = {"seat": "Bob's own"}
    body = {"name": "Bob", "key": "crm-2", "email": "bob@people.example", "metadata": seat}
    first, again = [await api.post("/api/v1/customers", api.acme, body, **headers) for _ in "12"]
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    async with database.admin() as admin:
        (kept,) = await admin.fetch("select answer::text from billing.idempotency_key")
    assert "bob" not in str(kept).lower()
    assert first.json()["id"] in str(kept)


async def test_an_erased_customer_keeps_its_key_and_nothing_else(api: Api) -> None:
    made = (await enter(api, key="crm-3", email="a@b.example", metadata={"seat": "4"})).json()
    path = f"/api/v1/customers/{made['id']}"
    gone = await api.client.delete(f"{path}/personal-data", headers={"X-API-Key": api.acme})
    assert gone.status_code == 204
    left = (await api.get(path, api.acme)).json()
    assert (left["name"], left["email"], left["metadata"]) == ("Erased", None, {})
    assert left["key"] == "crm-3"


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "a\x00b"},
        {"email": "nobody"},
        {"email": "a@b.example\nbcc: c@d.example"},
        {"currency": "eur"},
        {"key": ""},
        {"key": "a b"},
        {"metadata": {str(n): "x" for n in range(21)}},
        {"metadata": {"x" * 41: "x"}},
        {"metadata": {"x": "y" * 501}},
        {"metadata": {"x": "\x00"}},
        {"metadata": {"x": 1}},
        {"billed_by": "platform"},
    ],
)
async def test_bad_bodies(api: Api, body: dict[str, object]) -> None:
    answer = await enter(api, **body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_who_may(api: Api) -> None:
    assert (await enter(api, api.reader)).status_code == 403
    assert (await enter(api, api.globex, tenant_id="acme")).status_code == 403
    assert (await enter(api, api.operator, tenant_id="acme")).status_code == 201
