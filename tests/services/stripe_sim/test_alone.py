"""The sandbox is a program of its own: its folder, Python and five packages, and nothing else."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import stripe

from deploy.local.ports import scratch_port

from .conftest import KEY, ROOT, Sim, _wait

NEEDS = ("starlette", "uvicorn", "httpx", "jinja2", "python-multipart")

GUARDED = """
import json, runpy, sys

allowed = set(json.loads(sys.argv.pop(1))) | sys.stdlib_module_names | {"services", "__main__"}

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"the sandbox must not need {name}", name=name)

sys.meta_path.insert(0, Guard())
sys.path.insert(0, ".")
runpy.run_module("services.stripe_sim.app", run_name="__main__")
"""


def plain(name: str) -> str:
    """A distribution's name as every spelling of it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def with_what_they_need(names: tuple[str, ...]) -> set[str]:
    """Distributions and all that they cannot do without."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = plain(waiting.pop())
        if name in found:
            continue
        try:
            wishes = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another version of Python, or another system
        found.add(name)
        for wish in wishes:
            if "extra ==" not in wish:
                waiting.append(re.split(r"[^A-Za-z0-9._-]", wish, maxsplit=1)[0])
    return found


def spawn(modules: list[str], folder: Path, environment: dict[str, str]) -> Sim:
    command = [sys.executable, "-c", GUARDED, json.dumps(modules)]
    process = subprocess.Popen(command, cwd=folder, env=environment)
    return Sim(int(environment["SLUICE_STRIPE_SIM_PORT"]), process, environment)


def test_it_says_itself_what_it_needs() -> None:
    text = (ROOT / "services" / "stripe_sim" / "README.md").read_text()
    assert f"({', '.join(NEEDS)})" in text


async def test_it_starts_with_its_folder_and_its_own_packages(tmp_path: Path) -> None:
    source = ROOT / "services" / "stripe_sim"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, tmp_path / "services" / "stripe_sim", ignore=ignored)
    distributions = with_what_they_need(NEEDS)
    modules = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if any(plain(owner) in distributions for owner in owners)
    ]
    assert not {"asyncpg", "aiokafka", "fastapi", "stripe", "libs"} & set(modules)
    environment = {"PATH": os.environ["PATH"], "SLUICE_STRIPE_SIM_PORT": str(scratch_port())}
    sim = spawn(modules, tmp_path, environment)
    try:
        _wait(sim.url, sim.process)
        client: stripe.StripeClient = sim.client(KEY)
        made = await client.v1.customers.create_async({"email": "ada@example.com"})
        session = await client.v1.checkout.sessions.create_async(
            {
                "mode": "payment",
                "customer": made.id,
                "success_url": "http://127.0.0.1:9/",
                "line_items": [
                    {
                        "price_data": {
                            "currency": "eur",
                            "unit_amount": 500,
                            "product_data": {"name": "Ticket"},
                        }
                    }
                ],
            }
        )
        assert (await sim.pay(session.id))["payment_status"] == "paid"
    finally:
        assert sim.stop() == 0
