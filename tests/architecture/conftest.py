"""What the architecture tests look at: every service's application, built once."""

import pytest

from cli.generate_apps import ServiceApp, build_apps


@pytest.fixture(scope="session")
def apps() -> list[ServiceApp]:
    """Every service that has an application."""
    return build_apps()
