"""Pages by cursor: complete, without repetition, and total against invented cursors."""

import base64
import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.web.pagination import InvalidCursor, decode_cursor, encode_cursor

AT = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def cursor_of(values: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 200])
async def test_following_the_cursor_sees_every_item_once(api: httpx.AsyncClient, limit: int):
    seen, cursor = [], None
    for _ in range(20):
        params = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/api/v1/things", params=params)).json()
        assert set(page) == {"items", "next_cursor"}
        assert len(page["items"]) <= limit
        seen += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"thing-{number}" for number in range(7)]


async def test_without_a_limit_a_page_is_fifty(api: httpx.AsyncClient):
    page = (await api.get("/api/v1/things")).json()
    assert (len(page["items"]), page["next_cursor"]) == (7, None)


@pytest.mark.parametrize("limit", ["0", "-1", "201", "x", "1.5", ""])
async def test_a_limit_out_of_range_is_refused(api: httpx.AsyncClient, limit: str):
    answer = await api.get("/api/v1/things", params={"limit": limit})
    assert answer.status_code == 422


async def test_a_cursor_of_another_list_is_refused(api: httpx.AsyncClient):
    cursor = encode_cursor(("thing-1",))
    answer = await api.get("/api/v1/dated", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")
    long = await api.get("/api/v1/things", params={"cursor": "A" * 1_025})
    assert long.status_code == 422


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=100),
)
def test_a_sort_key_comes_back_as_it_was(at: datetime, uid: UUID, number: int, text: str):
    cursor = encode_cursor((at, uid, number, text))
    assert decode_cursor(cursor, datetime, UUID, int, str) == (at, uid, number, text)
    assert cursor.isascii()
    assert "=" not in cursor


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda b: cursor_of(list(b))))
def test_an_invented_cursor_raises_only_invalid_cursor(text: str):
    with pytest.raises(InvalidCursor):
        decode_cursor(text, datetime, UUID)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([1], (str,)),
        (["1"], (int,)),
        ([True], (int,)),
        ([1.0], (int,)),
        ([2**63], (int,)),
        (["a\x00"], (str,)),
        (["\ud800"], (str,)),
        (["2026-05-01T00:00:00"], (datetime,)),
        (["yesterday"], (datetime,)),
        (["no uuid"], (UUID,)),
        (["a", "b"], (str,)),
        ([], (str,)),
        ({"a": 1}, (str,)),
        ("a", (str,)),
        (None, ()),
    ],
)
def test_a_cursor_holds_exactly_what_the_list_asks_for(values: object, kinds: tuple[type, ...]):
    with pytest.raises(InvalidCursor):
        decode_cursor(cursor_of(values), *kinds)


def test_a_deep_or_huge_cursor_is_refused():
    for text in ("[" * 700, "1" * 700):
        cursor = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        with pytest.raises(InvalidCursor):
            decode_cursor(cursor, str)
    with pytest.raises(InvalidCursor):
        decode_cursor("A" * 2_000, str)


async def test_a_typed_cursor_reaches_the_route(api: httpx.AsyncClient):
    uid = uuid4()
    cursor = encode_cursor((AT, uid, 5))
    answer = await api.get("/api/v1/dated", params={"cursor": cursor})
    assert answer.json() == [str(AT), str(uid), "5"]
