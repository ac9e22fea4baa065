"""One module per Stripe noun: reads the parameters, makes one domain call, returns the object."""

import importlib
import pkgutil


def register() -> None:
    """Import every module of this package, which puts its endpoints in the routing table."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
