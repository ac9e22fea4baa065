"""What strangers can reach is total: any header gets a verdict, any body is an event or refused.

A bounded number of examples runs in every `make test`; SLUICE_TEST_FUZZ_EXAMPLES asks for more.
"""

import hashlib
import hmac
import json
import os
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.gateway import StripeEventReceived
from libs.ids import new_id
from services.gateway.signature import HEADER_BYTES_MAX, TOLERANCE_SECONDS, verify
from services.gateway.stripe_event import NotAnEventError, StripeEvent, parse
from tests.conftest import story_seed
from tests.services.gateway.conftest import Gateway, snapshot_event

EXAMPLES = int(os.environ.get("SLUICE_TEST_FUZZ_EXAMPLES") or 300)
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SECRET, NOW, BODY = b"whsec_test", 1_790_000_000, b'{"object": "event"}'
SIGNED_BODIES = 150


def digest(timestamp: bytes, secret: bytes = SECRET) -> bytes:
    return hmac.new(secret, timestamp + b"." + BODY, hashlib.sha256).hexdigest().encode()


TIMES = st.sampled_from(
    [
        *(b"%d" % (NOW + skew) for skew in (0, -300, 300, -301, 301, 10**9)),
        *(b"", b"0", b"-1", b"+1", b"1e9", b" 1", b"1_0", b"9" * 13, b"\xb2", "٣".encode(), b"0x1"),
    ]
) | st.binary(max_size=15)
SIGNATURES = st.one_of(
    TIMES.map(digest),
    TIMES.map(lambda at: digest(at).upper()),
    TIMES.map(lambda at: digest(at)[:-1]),
    TIMES.map(lambda at: digest(at, b"whsec_other")),
    st.binary(max_size=70),
)
PARTS = st.one_of(
    TIMES.map(lambda at: b"t=" + at),
    SIGNATURES.map(lambda value: b"v1=" + value),
    SIGNATURES.map(lambda value: b"v0=" + value),
    st.sampled_from([b"", b"=", b"t", b"v1", b"T=1", b"v1 =0", b"t==1"]),
    st.binary(max_size=20),
)
HEADERS = st.lists(PARTS, max_size=12).map(b",".join)


@given(header=HEADERS | st.binary(max_size=HEADER_BYTES_MAX + 10))
@FUZZ
def test_any_header_gets_a_verdict_and_only_the_right_digest_a_good_one(header: bytes) -> None:
    verdict = verify(header, BODY, [b"whsec_other_first", SECRET], NOW)
    within = range(NOW - TOLERANCE_SECONDS, NOW + TOLERANCE_SECONDS + 1)
    right = [b"%d" % at for at in within if b"t=%d" % at in header]
    expected = any(b"v1=" + digest(at) in header for at in right)
    if verdict.outcome == "valid":
        assert expected
        assert verdict.matched == (1,)
    else:
        assert verdict.matched == ()
        assert verdict.outcome in ("malformed", "no_match", "outside_tolerance")


@given(header=HEADERS, body=st.binary(max_size=50), now=st.integers(-(2**63), 2**63))
@FUZZ
def test_without_a_secret_nothing_is_valid(header: bytes, body: bytes, now: int) -> None:
    assert verify(header, body, [], now).outcome != "valid"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["evt_1", "acct_1", "cus_1", "sub_1", "event", "", "\x00", "\ud800", "x" * 300]
    ),
)
NAMES = st.text(max_size=8) | st.sampled_from(
    ["id", "object", "customer", "subscription", "metadata", "tenant_id", "parent"]
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
SUBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "object": st.sampled_from(["invoice", "customer", "subscription"]) | JSON,
        "customer": JSON,
        "subscription": JSON,
        "metadata": st.fixed_dictionaries({"tenant_id": JSON}) | JSON,
        "parent": st.fixed_dictionaries({"subscription_details": JSON}) | JSON,
        "subscription_details": JSON,
    },
)
EVENTS = st.fixed_dictionaries(
    {
        "object": st.sampled_from(["event", "v2.core.event"]) | JSON,
        "id": st.just("evt_1") | JSON,
        "type": st.just("invoice.paid") | JSON,
        "livemode": st.booleans() | JSON,
        "created": st.sampled_from([NOW, "2026-10-30T12:00:00.000Z"]) | JSON,
        "data": st.fixed_dictionaries({"object": SUBJECTS}) | JSON,
    },
    optional={"account": JSON, "context": JSON, "api_version": JSON, "related_object": JSON},
)


@given(event=EVENTS | JSON)
@FUZZ
def test_any_json_is_an_event_that_can_be_told_or_refused(event: Any) -> None:
    read(json.dumps(event).encode())


@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 40), st.binary(max_size=6)), max_size=4
    )
)
@FUZZ
def test_any_damage_to_an_event_is_an_event_or_refused(
    cuts: list[tuple[int, int, bytes]],
) -> None:
    body = json.dumps(snapshot_event(id="evt_1")).encode()
    for place, length, piece in cuts:
        body = body[:place] + piece + body[place + length :]
    read(body)


def read(body: bytes) -> StripeEvent | None:
    """The event in a body, which then fits the contract; None where it is refused."""
    try:
        event = parse(body)
    except NotAnEventError:
        return None
    fact = StripeEventReceived(
        account=event.account or "platform",
        stripe_event_id=event.id,
        event_type=event.type,
        api_version=event.api_version,
        created_at=event.created_at,
        object_type=event.object_type,
        object_id=event.object_id,
        payload=body.decode(),
    )
    told = wrap(fact, tenant_id=new_id(), mode="test", source="gateway", effective_at=utc_now())
    assert told.model_dump_json()
    return event


async def test_signed_and_damaged_events_never_break_the_gateway(gateway: Gateway) -> None:
    """What a parser takes must also be kept and told: no answer but stored and refused."""
    rng = random.Random(story_seed())
    words = [b"\x00", b"\\u0000", b"\\ud800", b"null", b"1e999", b"{", b'"', b"\xff", b"[]", b"-0"]
    stored = 0
    for _ in range(SIGNED_BODIES):
        body = json.dumps(snapshot_event()).encode()
        for _ in range(rng.randrange(3)):
            place, length = rng.randrange(len(body)), rng.randrange(12)
            body = body[:place] + rng.choice(words) + body[place + length :]
        answer = await gateway.send(body)
        assert answer.status_code in (200, 400), (answer.text, body)
        stored += answer.text == '{"status":"stored"}'
    assert 0 < stored < SIGNED_BODIES
    assert len(await gateway.published()) == stored
