"""The settings of the metering service."""

from pathlib import Path
from typing import ClassVar

from pydantic import AwareDatetime, Field

from libs.settings import ServiceSettings


class Settings(ServiceSettings):
    """What metering needs beyond what every service needs: where usage is archived."""

    service: ClassVar[str] = "metering"

    archive: Path = Field(
        default=Path(".local/data/usage-archive"),
        description="the folder that usage is archived in, as Parquet",
    )
    signed_since: AwareDatetime | None = Field(
        default=None,
        description="from when on usage on the topic must prove that its producer has a right to it; "
        "unset: whoever reaches the topic is trusted with every tenant's",
    )
    archive_every_seconds: int = Field(
        default=3600,
        ge=0,
        le=86_400,
        description="how long usage waits at most before it is archived",
    )
