"""Settings of the console."""

from typing import ClassVar

from pydantic import Field, HttpUrl

from libs.settings import Port, ProcessSettings


class Settings(ProcessSettings):
    """Where the console listens and where it reaches the API."""

    service: ClassVar[str] = "console"

    port: Port = Field(default=8108, description="where the console listens")
    api: HttpUrl | None = Field(
        default=None,
        description="where the console itself reaches the API; the origin when not set",
    )

    oidc_issuer: str | None = Field(
        default=None,
        validation_alias="SLUICE_OIDC_ISSUER",
        description="with an identity provider the sign-in page leads there; tenants asks it",
    )
    oidc_name: str = Field(
        default="single sign-on",
        validation_alias="SLUICE_OIDC_NAME",
        max_length=60,
        description="what the sign-in page calls the provider",
    )

    @property
    def api_url(self) -> str:
        """Base address of the API, without a slash at its end."""
        return str(self.api).rstrip("/") if self.api else self.origin_url

    @property
    def browser_origin(self) -> str:
        """What a browser sends as `Origin` from one of our pages: scheme, host and odd port."""
        host = self.origin.host or ""
        usual = {"http": 80, "https": 443}.get(self.origin.scheme)
        port = "" if self.origin.port in (None, usual) else f":{self.origin.port}"
        return f"{self.origin.scheme}://{host}{port}"
