"""Every service runs on its own code, libs and its own extra: the Dockerfile's steps, for real.

The steps are read from deploy/Dockerfile, so that the image and this test cannot differ.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/app.py"))


def stage(name: str) -> str:
    """The instructions of one build stage, continued lines joined."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"deploy/Dockerfile has no stage {name}"
    return found[1]


def find_uv() -> Path:
    local = ROOT / ".local" / "tools" / "uv" / "bin" / "uv"
    found = local if local.exists() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is not here: run `make setup`")
    return Path(found)


def copy_as_told(stages: list[str], service: str, target: Path) -> None:
    """Every COPY from the build context."""
    for text in stages:
        for arguments in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE):
            *sources, destination = arguments.replace("${SERVICE}", service).split()
            for name in sources:
                source, place = ROOT / name, target / destination
                if source.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(source, place, ignore=ignored, dirs_exist_ok=True)
                else:
                    place = place / name if destination.endswith("/") else place
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, place)


def install_as_told(text: str, service: str, target: Path) -> None:
    """The stage's `uv sync`, from the cache that `make setup` filled."""
    command = re.search(r"^RUN uv (sync .+)$", text, re.MULTILINE)
    assert command is not None
    without_keeper = re.sub(r'\$\{KEEPER:\+[^}]*"\$\{KEEPER\}"\}', "", command[1])
    words = re.sub(r'"\$\{SERVICE:[^}]*\}"', service, without_keeper).split()
    words.remove("--no-cache")
    done = subprocess.run(
        [find_uv(), *words, "--offline", "--python", sys.executable],
        cwd=target,
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(target / ".venv"), "VIRTUAL_ENV": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "offline" in done.stderr.lower() and not os.environ.get("CI"):
        pytest.skip(f"uv's cache lacks a package: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_alone(service: str, tmp_path: Path) -> None:
    stages = [stage("uv"), stage("service-build")]
    copy_as_told(stages, service, tmp_path)
    assert [p.name for p in (tmp_path / "services").iterdir() if p.is_dir()] == [service]
    install_as_told(stages[1], service, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    program = f"import services.{service}.app as app; assert callable(app.build)"
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    absent = {"pytest", "ruff", "stripe"} - ({"stripe"} if has_stripe(service) else set())
    site = next((tmp_path / ".venv" / "lib").glob("*/site-packages"))
    assert not [name for name in absent if (site / name).exists()]


def has_stripe(service: str) -> bool:
    """The two services that may speak with Stripe's SDK."""
    return service in {"stripe_sync", "tenants"}


def test_the_deploy_job_imports_alone(tmp_path: Path) -> None:
    stages = [stage("uv"), stage("deploy-build")]
    copy_as_told(stages, "", tmp_path)
    install_as_told(stages[1], "", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "libs.deploy"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "the deploy step needs it" in done.stderr


def test_the_image_runs_as_nobody_in_particular() -> None:
    runtime = stage("runtime")
    assert re.search(r"^USER [1-9][0-9]+$", runtime, re.MULTILINE)
    assert "USER root" not in DOCKERFILE.read_text()
