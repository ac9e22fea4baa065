"""The settings of the ledger service."""

from typing import ClassVar

from libs.settings import ServiceSettings


class Settings(ServiceSettings):
    """The ledger needs nothing beyond what every service needs."""

    service: ClassVar[str] = "ledger"
