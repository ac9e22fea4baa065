"""Vault, AWS and GCP as real as this machine has them."""

import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from shutil import which
from typing import Any
from uuid import uuid4

import boto3
import hvac
import pytest
import requests
from hvac.exceptions import VaultError
from moto.server import ThreadedMotoServer
from werkzeug.serving import WSGIRequestHandler

from libs.crypto.clients.aws import AwsClient
from libs.crypto.clients.gcp import GcpClient
from libs.crypto.clients.vault import VaultClient, VaultLogin
from libs.crypto.stores.aws import AwsSecrets
from libs.crypto.stores.gcp import GcpSecrets
from libs.crypto.stores.protocol import SecretStore
from libs.crypto.stores.vault import VaultSecrets
from libs.crypto.vaults.aws import AwsMasterKeys
from libs.crypto.vaults.gcp import GcpMasterKeys
from libs.crypto.vaults.protocol import MasterKeys
from libs.crypto.vaults.vault import VaultMasterKeys
from tests.libs.crypto.gcp_server import KEY, GcpServer
from tests.libs.crypto.json_server import serving
from tests.libs.crypto.vault_server import TOKEN, VaultServer

REGION = "eu-central-1"
NOWHERE = "http://127.0.0.1:9"
OPENBAO = "openbao/openbao:2.4.4"


@dataclass(frozen=True)
class Provider:
    """A holder of master keys, and what an operator does to it.

    Attributes:
        rotate: make a new master key or version and use it from then on.
        away: the same holder where nothing answers.
    """

    name: str
    keys: MasterKeys
    rotate: Callable[[], MasterKeys]
    away: MasterKeys


@dataclass(frozen=True)
class Store:
    """A secret store, and the same where nothing answers."""

    name: str
    secrets: SecretStore
    away: SecretStore


def vault_client(address: str) -> VaultClient:
    return VaultClient(VaultLogin.of(address, token=TOKEN, token_file=None, namespace=None))


def engine_answers() -> bool:
    """Whether a container engine runs a real OpenBao for us."""
    if which("docker") is None:
        return False
    asked = subprocess.run(["docker", "version"], capture_output=True, timeout=30, check=False)
    return asked.returncode == 0


@pytest.fixture(scope="session")
def vault_address() -> Generator[str, None, None]:
    """A real OpenBao where an engine answers, else our server of the documented API."""
    if not engine_answers():
        with serving(VaultServer()) as address:
            yield address
        return
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 (needs an engine)

    container = (
        DockerContainer(OPENBAO)
        .with_command("server -dev -dev-listen-address=0.0.0.0:8200")
        .with_env("BAO_DEV_ROOT_TOKEN_ID", TOKEN)
        .with_exposed_ports(8200)
    )
    with container:
        address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8200)}"
        client = hvac.Client(url=address, token=TOKEN)
        for _ in range(100):
            try:
                client.sys.enable_secrets_engine("transit")
                break
            except (requests.RequestException, VaultError):
                time.sleep(0.2)
        yield address


@pytest.fixture(scope="session")
def aws_endpoint() -> Generator[str, None, None]:
    """moto's server: KMS and Secrets Manager."""
    # Head and body are two packets; the second does not wait for an acknowledgement of the first.
    WSGIRequestHandler.disable_nagle_algorithm = True
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def _aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.fixture
def vault_provider(vault_address: str) -> Provider:
    name = f"sluice-{uuid4().hex[:8]}"
    transit = hvac.Client(url=vault_address, token=TOKEN).secrets.transit
    transit.create_key(name=name, derived=True, key_type="aes256-gcm96")

    def keys(address: str) -> VaultMasterKeys:
        return VaultMasterKeys(vault_client(address), mount="transit", key=name)

    def rotate() -> MasterKeys:
        transit.rotate_key(name=name)
        return keys(vault_address)

    return Provider("vault", keys(vault_address), rotate, keys(NOWHERE))


@dataclass(frozen=True)
class Aws:
    """Clients of AWS: making one reads megabytes of its API's description, so the run shares them."""

    kms: Any
    here: dict[str, AwsClient]
    nowhere: dict[str, AwsClient]


@pytest.fixture(scope="session")
def aws(aws_endpoint: str) -> Aws:
    """An administrator's client, and ours where something answers and where nothing does."""
    kms: Any = boto3.client(
        "kms",
        region_name=REGION,
        endpoint_url=aws_endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    here, nowhere = (
        {
            service: AwsClient(service, region=REGION, endpoint=endpoint)
            for service in ("kms", "secretsmanager")
        }
        for endpoint in (aws_endpoint, NOWHERE)
    )
    return Aws(kms, here, nowhere)


@pytest.fixture
def aws_provider(aws: Aws) -> Provider:
    def made() -> str:
        arn: str = aws.kms.create_key()["KeyMetadata"]["Arn"]
        return arn

    first = made()
    return Provider(
        "aws",
        AwsMasterKeys(aws.here["kms"], key=first),
        lambda: AwsMasterKeys(aws.here["kms"], key=made()),
        AwsMasterKeys(aws.nowhere["kms"], key=first),
    )


@pytest.fixture
def gcp_provider() -> Generator[Provider, None, None]:
    server = GcpServer()
    with serving(server) as address:

        def keys(base: str) -> GcpMasterKeys:
            return GcpMasterKeys(GcpClient(base, anonymous=True), key=KEY)

        def rotate() -> MasterKeys:
            server.rotate()
            return keys(address)

        yield Provider("gcp", keys(address), rotate, keys(NOWHERE))


@pytest.fixture(params=["vault", "aws", "gcp"])
def provider(request: pytest.FixtureRequest) -> Provider:
    """Each holder outside in turn."""
    found: Provider = request.getfixturevalue(f"{request.param}_provider")
    return found


@pytest.fixture(params=["vault", "aws", "gcp"])
def store(request: pytest.FixtureRequest) -> Generator[Store, None, None]:
    """Each secret store in turn."""
    match request.param:
        case "vault":
            address = request.getfixturevalue("vault_address")
            yield Store(
                "vault",
                *(
                    VaultSecrets(vault_client(base), mount="secret", prefix="sluice")
                    for base in (address, NOWHERE)
                ),
            )
        case "aws":
            aws: Aws = request.getfixturevalue("aws")
            yield Store(
                "aws",
                *(
                    AwsSecrets(clients["secretsmanager"], prefix="sluice")
                    for clients in (aws.here, aws.nowhere)
                ),
            )
        case _:
            with serving(GcpServer()) as address:
                yield Store(
                    "gcp",
                    *(
                        GcpSecrets(GcpClient(base, anonymous=True), project="p", prefix="sluice")
                        for base in (address, NOWHERE)
                    ),
                )
