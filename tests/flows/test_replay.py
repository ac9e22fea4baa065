"""The archive is sent again by the command, on the running stack: first tried, then for good."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from cli import proof
from cli.story import Story
from deploy.local.folders import REPOSITORY
from deploy.local.stack import Stack
from libs.clock import utc_now

pytestmark = pytest.mark.flow

TOLD = {
    "gateway": {"webhook_replay", "outbox", "stream"},
    "stripe_sync": {"replay_check", "stream_position", "taken_event"},
    "tenants": {"audit_entry", "audit_head", "stream_position", "outbox", "stream"},
}
"""What tells of a replay: the replay itself, its events, its comparisons, its audit entry."""


def replay(stack: Stack, *arguments: str) -> dict[str, Any]:
    """What `sluice replay` says of this run's stack."""
    shell = {n: v for n, v in os.environ.items() if not n.startswith(("SLUICE_", "STRIPE_"))}
    result = subprocess.run(
        [sys.executable, "-m", "cli.main", "replay", "--json", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=shell | {"SLUICE_LOCAL": str(stack.folders.root), "COLUMNS": "200"},
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def effects(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The tables that differ, but for those that tell of the replay itself."""
    return [
        name
        for name in proof.differences(before, after)
        if name.partition(".")[2] not in TOLD.get(name.partition(".")[0], ())
    ]


async def test_the_whole_archive_sent_again_changes_nothing(
    stack: Stack, played_story: Story
) -> None:
    environment = played_story.environment
    await proof.settle(environment)
    before = await proof.checksums(environment)
    # Given a dry run of everything that came until now: the mirror is what Stripe has,
    until = ("--to", f"{utc_now():%Y-%m-%dT%H:%M:%SZ}")
    tried = replay(stack, *until, "--dry-run")
    assert tried["replay"]["state"] == "done"
    assert tried["replay"]["replayed"] == tried["replay"]["matched"] > 10
    assert tried["differences"]["different"] == 0
    assert tried["differences"]["checked"] > tried["differences"]["failed"] + 3
    # (what lies in an account that its tenant has disconnected since is nobody's to look at)
    assert "platform" not in {each["stripe_account"] for each in tried["differences"]["items"]}
    # when all that is sent for good,
    sent = replay(stack, *until)
    assert sent["replay"]["replayed"] == tried["replay"]["replayed"]
    await proof.settle(environment)
    # then nothing has changed but what tells of it.
    assert effects(before, await proof.checksums(environment)) == []


async def test_of_one_tenant_and_type(stack: Stack, played_story: Story) -> None:
    slug = played_story.named("acme")
    told = replay(stack, "--tenant", slug, "--type", "invoice.paid", "--dry-run")
    assert told["replay"]["tenant_id"] == played_story.tenant_id
    assert 0 < told["replay"]["replayed"] < 10
