"""The settings of the reporting service."""

from typing import ClassVar

from libs.settings import ServiceSettings


class Settings(ServiceSettings):
    """Reporting needs nothing beyond what every service needs."""

    service: ClassVar[str] = "reporting"
