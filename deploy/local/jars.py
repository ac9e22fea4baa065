"""Apache Kafka's jars, resolved once with jgo in pure Python and checked against a committed list.

`kafka.sha256` names every jar with its SHA-256: what is fetched can neither change nor grow unseen.
"""

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.folders import CACHE
from deploy.local.packages import package_folder

KAFKA_VERSION = "4.1.1"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Kafka's own dependencies name no binding of slf4j to log4j. It is fetched alone, without what it
# depends on (Kafka brings the same log4j): resolved together, the dependency management of log4j's
# parent would replace Kafka's own versions, kafka-clients among them.
LOG_BINDING = "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"
CHECKSUMS = Path(__file__).with_name("kafka.sha256")
FETCH_TIMEOUT_SECONDS = 60

Report = Callable[[str], None]


def checksums() -> dict[str, str]:
    """The committed list: jar name -> SHA-256 in hex."""
    pairs = (line.split() for line in CHECKSUMS.read_text().splitlines())
    return {name: digest for digest, name in pairs}


def jar_folder(cache: Path) -> Path:
    """Where the jars of this Kafka version stand."""
    return cache / f"kafka-{KAFKA_VERSION}"


def ensure_jars(cache: Path, report: Report = lambda _: None) -> Path:
    """Fetch what is missing, verify every jar, and return their folder.

    Safe when several processes do it at once: one fetches, the others wait.

    Args:
        cache: the folder for downloads, kept when the stack is reset.
        report: told what is being fetched.

    Raises:
        StackError: jgo is missing, the repository cannot be reached, or a jar is not the listed one.
    """
    folder = jar_folder(cache)
    expected = checksums()
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(cache / "jars.lock"):
        if any(not _is_intact(folder / name, digest) for name, digest in expected.items()):
            _fetch(cache, folder, expected, report)
        for stranger in {path.name for path in folder.glob("*.jar")} - expected.keys():
            (folder / stranger).unlink()
    return folder


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _is_intact(jar: Path, digest: str) -> bool:
    return jar.is_file() and _sha256(jar) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _fetch(cache: Path, folder: Path, expected: dict[str, str], report: Report) -> None:
    package_folder("jgo", "jgo")
    downloads = cache / "maven"
    try:
        found = _resolve(downloads, report)
    except OSError as error:  # requests' errors are OSErrors too
        raise StackError(
            "Kafka's jars cannot be fetched from the Maven repository. They are needed once, with"
            f" network; then they stay in {folder}. The cause: {_first_line(error)}"
        ) from error
    except (RuntimeError, ValueError, AssertionError) as error:
        shutil.rmtree(downloads, ignore_errors=True)
        raise StackError(f"Kafka's jars cannot be resolved: {_first_line(error)}") from error
    wrong = sorted(
        expected.keys() ^ found.keys()
        | {name for name in expected.keys() & found if _sha256(found[name]) != expected[name]}
    )
    if wrong:
        shutil.rmtree(downloads, ignore_errors=True)
        raise StackError(
            f"These jars are not the ones listed in {CHECKSUMS.name}: {', '.join(wrong)}. Nothing"
            " was installed. Try again; if it happens again, the repository serves other files."
        )
    for name, path in found.items():
        path.replace(folder / name)
    shutil.rmtree(downloads, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _resolve(downloads: Path, report: Report) -> dict[str, Path]:
    """All jars of Kafka's compile and runtime scopes, and the log binding: name -> downloaded file."""
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 (needed once a machine)

    logging.getLogger("jgo").setLevel(logging.ERROR)
    context = MavenContext(
        resolver=PythonResolver(), repo_cache=downloads, timeout=FETCH_TIMEOUT_SECONDS
    )
    report("resolving Kafka's dependencies")
    inputs, transitive = context.resolver.resolve([context.create_dependency(KAFKA)])
    kafka = inputs + [each for each in transitive if each.scope in {"compile", "runtime"}]
    binding, _ = context.resolver.resolve(
        [context.create_dependency(LOG_BINDING)], transitive=False
    )
    found: dict[str, Path] = {}
    wanted = [*kafka, *binding]
    for position, dependency in enumerate(wanted, start=1):
        report(f"fetching Kafka's jars, {position} of {len(wanted)}")
        path = Path(dependency.artifact.resolve())
        found[path.name] = path
    return found


if __name__ == "__main__":
    ensure_jars(CACHE)
