"""The image of every service is built where a container engine answers."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/app.py"))


def engine_answers() -> bool:
    """Whether a Docker engine can be reached from here."""
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    return asked.returncode == 0


pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not engine_answers(), reason="no container engine answers on this machine"),
]


@pytest.mark.parametrize("service", SERVICES)
def test_the_image_of_a_service_is_built(service: str) -> None:
    built = subprocess.run(
        [
            *("docker", "build", "--quiet", "--file", "deploy/Dockerfile"),
            *("--target", "service", "--build-arg", f"SERVICE={service}"),
            *("--tag", f"sluice-{service}:test", "."),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-2000:]
