"""The settings of the billing service."""

from typing import ClassVar

from libs.settings import ServiceSettings


class Settings(ServiceSettings):
    """Billing needs nothing beyond what every service needs."""

    service: ClassVar[str] = "billing"
