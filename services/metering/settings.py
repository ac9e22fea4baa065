"""The settings of the metering service."""

from typing import ClassVar

from libs.settings import ServiceSettings


class Settings(ServiceSettings):
    """Metering needs nothing beyond what every service needs."""

    service: ClassVar[str] = "metering"
