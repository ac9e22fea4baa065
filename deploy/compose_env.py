"""`python -m deploy.compose_env`: fresh secrets for compose.yaml into `.local/compose.env`.

A file that exists is left as it is: data in the volumes depends on its secrets.
"""

import base64
import os
import secrets
import sys
from pathlib import Path

from deploy.local.environment import OPERATOR_EMAIL, SERVICE_PORTS, WITHOUT_SCHEMA
from deploy.local.folders import REPOSITORY
from libs.crypto import apikeys

PATH = REPOSITORY / ".local" / "compose.env"


def variables() -> dict[str, str]:
    """Every variable that compose.yaml insists on."""
    passwords = {
        f"SLUICE_{service.upper()}_PASSWORD": secrets.token_hex(16)
        for service in SERVICE_PORTS
        if service not in WITHOUT_SCHEMA
    }
    return {
        "SLUICE_POSTGRES_PASSWORD": secrets.token_hex(16),
        **passwords,
        "SLUICE_KEY_PEPPER": _base64(32),
        "SLUICE_MASTER_KEYS": f"k1:{_base64(32)}",
        "SLUICE_OPERATOR_KEY": apikeys.generate("test").key,
        "SLUICE_OPERATOR_EMAIL": OPERATOR_EMAIL,
        "SLUICE_OPERATOR_PASSWORD": secrets.token_urlsafe(18),
        "STRIPE_SECRET_KEY": "sk_test_" + secrets.token_hex(24),
        "STRIPE_WEBHOOK_SECRET": "whsec_" + secrets.token_hex(24),
        "STRIPE_CONNECT_WEBHOOK_SECRET": "whsec_" + secrets.token_hex(24),
    }


def _base64(size_bytes: int) -> str:
    return base64.b64encode(secrets.token_bytes(size_bytes)).decode()


def write(path: Path = PATH) -> bool:
    """Write the file for its owner's eyes only; False where it was already there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in variables().items())
    return True


def main() -> int:
    """Write and say where."""
    name = PATH.relative_to(REPOSITORY)
    sys.stdout.write(f"wrote {name}\n" if write() else f"{name} is there and stays as it is\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
