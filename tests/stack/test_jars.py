"""Kafka's jars: only the listed ones are ever run, and a missing network is told in words."""

import os
import re
from pathlib import Path

import pytest

from deploy.local.errors import StackError
from deploy.local.folders import CACHE
from deploy.local.jars import KAFKA_VERSION, checksums, ensure_jars, jar_folder

CLOSED = "http://127.0.0.1:9"

fetched = pytest.mark.skipif(
    any(not (jar_folder(CACHE) / name).exists() for name in checksums()),
    reason="Kafka's jars are not fetched yet; `make up` fetches them",
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, CLOSED)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The fetched jars in a cache of this test's own, without a copy of their bytes."""
    folder = jar_folder(tmp_path)
    folder.mkdir(parents=True)
    for name in checksums():
        os.link(jar_folder(CACHE) / name, folder / name)
    return tmp_path


def test_every_jar_is_listed_with_its_digest() -> None:
    listed = checksums()
    assert f"kafka_2.13-{KAFKA_VERSION}.jar" in listed
    # Kafka's clients must be of the same version, whatever else names another.
    assert [name for name in listed if name.startswith("kafka-clients-")] == [
        f"kafka-clients-{KAFKA_VERSION}.jar"
    ]
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in listed.values())


def test_without_network_the_message_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"cannot be fetched .* needed once, with network"):
        ensure_jars(tmp_path)
    assert not list(jar_folder(tmp_path).glob("*.jar"))


@fetched
def test_fetched_jars_need_no_network_and_strangers_are_removed(copy: Path) -> None:
    (jar_folder(copy) / "evil.jar").write_bytes(b"PK")
    assert ensure_jars(copy) == jar_folder(copy)
    assert {path.name for path in jar_folder(copy).glob("*.jar")} == checksums().keys()


@fetched
def test_a_changed_jar_is_never_run(copy: Path) -> None:
    jar = jar_folder(copy) / f"kafka_2.13-{KAFKA_VERSION}.jar"
    content = jar.read_bytes()
    jar.unlink()
    jar.write_bytes(content + b"\0")
    with pytest.raises(StackError, match="cannot be fetched"):
        ensure_jars(copy)
