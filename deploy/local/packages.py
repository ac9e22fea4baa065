"""Where the servers' wheels were installed, found without importing them.

Importing would run code of theirs that writes to the home folder.
"""

import importlib.util
from pathlib import Path

from deploy.local.errors import StackError


def package_folder(module: str, distribution: str) -> Path:
    """The folder of an installed package.

    Raises:
        StackError: the package is missing; the message names it and the command that installs it.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise StackError(
            f"The package {distribution} is not installed. Run `make setup`, which installs"
            " everything that uv.lock names."
        )
    return Path(spec.submodule_search_locations[0])
