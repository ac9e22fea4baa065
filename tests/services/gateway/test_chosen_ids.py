"""Ids that a user chose at Stripe, for products and their kin, are ids like any other."""

import pytest

from tests.services.gateway.conftest import Gateway, about


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("gold-plan", "gold-plan"),
        ("basic.monthly", "basic.monthly"),
        ("x" * 255, "x" * 255),
        ("x" * 256, None),
        ("..", None),
        ("a/b", None),
        ("a?b", None),
        ("a#b", None),
        ("a%b", None),
        ("a b", None),
        ("a\n", None),
        ("a\x00", None),
        ("\ud800", None),
    ],
)
async def test_an_id_that_a_user_chose_is_kept(
    gateway: Gateway, given: str, kept: str | None
) -> None:
    answer = await gateway.send(about(id=given, object="product"))
    assert answer.status_code == 200, answer.text
    (row,) = await gateway.archived()
    assert (row["object_type"], row["object_id"]) == ("product", kept)
