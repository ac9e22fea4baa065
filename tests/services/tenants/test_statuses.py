"""The table of statuses that is published is the one in use (requirement T6)."""

import re
from pathlib import Path
from typing import get_args

from libs.contracts.billing import SubscriptionStatus
from libs.contracts.tenants import TenantStatus
from services.tenants.statuses import STATUS_OF_SUBSCRIPTION

PAGE = Path(__file__).parents[3] / "docs/how-to/gate-on-the-status.md"


def test_the_published_table_is_the_one_in_use() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == STATUS_OF_SUBSCRIPTION
    assert {told for told, _ in rows} == set(get_args(SubscriptionStatus))
    assert {shown for _, shown in rows} == set(get_args(TenantStatus))
