"""Signing in at an identity provider: OpenID Connect, authorization code with PKCE.

What is checked, and where it is written: discovery names the very issuer that was configured (OpenID
Connect Discovery 1.0, section 4.3); `state` is used once, within ten minutes, in the browser that
began (OAuth 2.0 Security Best Current Practice, RFC 9700, section 4.7); PKCE with S256 (RFC 7636);
`iss` in the answer is the issuer's, against mix-up (RFC 9207); signature, `iss`, `aud`, `azp`, `exp`,
`iat`, `nonce` and `at_hash` of the ID token (OpenID Connect Core 1.0, section 3.1.3.7).
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
from authlib.oauth2.auth import ClientAuth  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749.parameters import (  # type: ignore[import-untyped]
    prepare_grant_uri,
    prepare_token_request,
)
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]
from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic import BaseModel, ConfigDict, ValidationError

from libs.db.pool import Tx
from services.tenants import store_identities as store
from services.tenants.settings import Settings

SCOPE = "openid email profile"
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Signatures by the provider's own key: never `none`, never one under a shared secret."""
LIFE = timedelta(minutes=10)
TIMEOUT_SECONDS = 5.0
ANSWER_BYTES_MAX = 256 * 1024
METADATA_SECONDS = 3600.0
KEYS_AGAIN_SECONDS = 30.0
LEEWAY_SECONDS = 30
VALUE_LENGTH_MAX = 4_096
TOKEN_BYTES = 32
HOME = "/tenants"


class OidcError(Exception):
    """The sign-in did not come to its end; `reason` is what the sign-in page explains."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Identity:
    """Who somebody is at the provider; `email` only where the provider has verified it."""

    issuer: str
    subject: str
    email: str | None
    name: str | None


@dataclass(frozen=True)
class Beginning:
    """A sign-in that was begun: what goes to the provider, and what stays in the browser."""

    state: str
    browser: str = field(repr=False)

    @property
    def nonce(self) -> str:
        """Stands in the ID token; only the browser that began can tell it again."""
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        """What the code challenge was made of."""
        return self._derived("verifier")

    def _derived(self, what: str) -> str:
        text = f"oidc:{what}:{self.state}".encode()
        return _text(hmac.new(self.browser.encode(), text, hashlib.sha256).digest())


class _Metadata(BaseModel):
    """What discovery tells, as far as it is used."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False

    @property
    def algorithms(self) -> list[str]:
        """The signatures that both sides know."""
        return [each for each in ALGORITHMS if each in self.id_token_signing_alg_values_supported]


async def begin(tx: Tx, return_to: str, now: datetime) -> Beginning:
    """Remember a sign-in by two hashes, until it comes back or ten minutes are over."""
    beginning = Beginning(secrets.token_urlsafe(TOKEN_BYTES), secrets.token_urlsafe(TOKEN_BYTES))
    await store.insert_sign_in(
        tx, _hash(beginning.state), _hash(beginning.browser), return_to, now + LIFE
    )
    return beginning


async def take(
    tx: Tx, state: str | None, browser: str | None, now: datetime
) -> tuple[Beginning, str]:
    """The sign-in that comes back, used up by this, and the page to go on to.

    Raises:
        OidcError: it never began, began in another browser, is over, or came back before.
    """
    if not state or not browser or max(len(state), len(browser)) > VALUE_LENGTH_MAX:
        raise OidcError("sign_in_expired")
    return_to = await store.take_sign_in(tx, _hash(state), _hash(browser), now)
    if return_to is None:
        raise OidcError("sign_in_expired")
    return Beginning(state, browser), return_to


class Provider:
    """The identity provider as discovery tells of it; what it tells is kept for an hour."""

    def __init__(self, settings: Settings) -> None:
        assert settings.oidc_issuer is not None, "only made where a provider is configured"
        assert settings.oidc_client_id is not None, "the settings have checked it"
        self.issuer = settings.oidc_issuer
        self._client_id = settings.oidc_client_id
        secret = settings.oidc_client_secret
        self._client_secret = None if secret is None else secret.get_secret_value()
        self._redirect_uri = f"{settings.origin_url}/api/v1/session/oidc/callback"
        self._metadata: _Metadata | None = None
        self._keys: KeySet | None = None
        self._metadata_at = self._keys_at = 0.0

    async def address(self, beginning: Beginning) -> str:
        """Where the browser is sent to.

        Raises:
            OidcError: the provider does not answer, or is another than configured.
        """
        metadata = await self._discover()
        address: str = prepare_grant_uri(
            metadata.authorization_endpoint,
            client_id=self._client_id,
            response_type="code",
            redirect_uri=self._redirect_uri,
            scope=SCOPE,
            state=beginning.state,
            nonce=beginning.nonce,
            code_challenge=create_s256_code_challenge(beginning.verifier),
            code_challenge_method="S256",
        )
        return address

    async def identify(
        self, beginning: Beginning, answer: Mapping[str, str], now: datetime
    ) -> Identity:
        """Who signed in, by what the provider answered to the browser and then to us.

        Raises:
            OidcError: refused by the person or the provider, or anything does not fit.
        """
        metadata = await self._discover()
        told_issuer = answer.get("iss")
        if told_issuer is None and metadata.authorization_response_iss_parameter_supported:
            raise OidcError("sign_in_failed")
        if told_issuer is not None and told_issuer != self.issuer:
            raise OidcError("sign_in_failed")
        if answer.get("error") is not None:
            raise OidcError("sign_in_refused")
        code = answer.get("code")
        if not code or len(code) > VALUE_LENGTH_MAX:
            raise OidcError("sign_in_failed")
        tokens = await self._exchange(metadata, code, beginning.verifier)
        id_token, access_token = tokens.get("id_token"), tokens.get("access_token")
        if not isinstance(id_token, str) or not isinstance(access_token, str):
            raise OidcError("sign_in_failed")
        claims = await self._verified(metadata, id_token, access_token, beginning.nonce, now)
        if "email" not in claims and metadata.userinfo_endpoint is not None:
            told = await self._userinfo(metadata.userinfo_endpoint, access_token)
            if told.get("sub") != claims["sub"]:
                raise OidcError("sign_in_failed")
            claims = told | claims
        return _identity(self.issuer, claims)

    async def _exchange(self, metadata: _Metadata, code: str, verifier: str) -> dict[str, Any]:
        """The tokens for a code; each code is taken once, whatever comes of it."""
        known = metadata.token_endpoint_auth_methods_supported
        method = "none" if self._client_secret is None else "client_secret_basic"
        if method not in known and "client_secret_post" in known and self._client_secret:
            method = "client_secret_post"
        client = ClientAuth(self._client_id, self._client_secret, method)
        form = prepare_token_request(
            "authorization_code",
            code=code,
            redirect_uri=self._redirect_uri,
            code_verifier=verifier,
        )
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        uri, headers, form = client.prepare("POST", metadata.token_endpoint, headers, form)
        return await self._ask("POST", uri, headers=headers, content=form)

    async def _verified(
        self, metadata: _Metadata, id_token: str, access_token: str, nonce: str, now: datetime
    ) -> dict[str, Any]:
        try:
            keys = await self._key_set(metadata)
            try:
                token = jwt.decode(id_token, keys, algorithms=metadata.algorithms)
            except (JoseError, ValueError):
                # The provider may have taken a new key a moment ago.
                keys = await self._key_set(metadata, anew=True)
                token = jwt.decode(id_token, keys, algorithms=metadata.algorithms)
            claims = CodeIDToken(
                token.claims,
                token.header,
                options={
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self._client_id},
                    "nonce": {"essential": True, "value": nonce},
                },
                params={
                    "nonce": nonce,
                    "client_id": self._client_id,
                    "access_token": access_token,
                },
            )
            claims.validate(now=int(now.timestamp()), leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError, KeyError):
            raise OidcError("sign_in_failed") from None
        return dict(claims)

    async def _userinfo(self, address: str, access_token: str) -> dict[str, Any]:
        headers = {"Accept": "application/json", "Authorization": f"Bearer {access_token}"}
        return await self._ask("GET", address, headers=headers)

    async def _discover(self) -> _Metadata:
        if self._metadata is not None and time.monotonic() - self._metadata_at < METADATA_SECONDS:
            return self._metadata
        found = await self._ask(
            "GET", f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        )
        try:
            metadata = _Metadata.model_validate(found)
        except ValidationError:
            raise OidcError("sign_in_unavailable") from None
        endpoints = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri)
        secure = all(map(is_secure, (*endpoints, metadata.userinfo_endpoint or self.issuer)))
        if metadata.issuer != self.issuer or not secure or not metadata.algorithms:
            raise OidcError("sign_in_unavailable")
        self._metadata, self._metadata_at = metadata, time.monotonic()
        return metadata

    async def _key_set(self, metadata: _Metadata, *, anew: bool = False) -> KeySet:
        age_seconds = time.monotonic() - self._keys_at
        limit_seconds = KEYS_AGAIN_SECONDS if anew else METADATA_SECONDS
        if self._keys is None or age_seconds >= limit_seconds:
            found = await self._ask("GET", metadata.jwks_uri)
            keys = found.get("keys")
            if not isinstance(keys, list):
                raise OidcError("sign_in_unavailable")
            self._keys, self._keys_at = KeySet.import_key_set({"keys": keys}), time.monotonic()
        return self._keys

    async def _ask(self, method: str, address: str, **parts: Any) -> dict[str, Any]:
        """One call to the provider: bounded in time and size, and never sent on elsewhere."""
        try:
            async with (
                httpx.AsyncClient(
                    timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False
                ) as http,
                http.stream(method, address, **parts) as answer,
            ):
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_BYTES_MAX:
                        raise OidcError("sign_in_unavailable")
            if answer.status_code >= 500:
                raise OidcError("sign_in_unavailable")
            if answer.status_code != 200:
                raise OidcError("sign_in_failed")
            found = httpx.Response(200, content=bytes(body)).json()
        except (httpx.HTTPError, httpx.InvalidURL):
            raise OidcError("sign_in_unavailable") from None
        except (ValueError, RecursionError):
            raise OidcError("sign_in_failed") from None
        if not isinstance(found, dict):
            raise OidcError("sign_in_failed")
        return found


def is_secure(address: str) -> bool:
    """Whether what is said there stays between the two: TLS, or this very machine."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        return False
    is_here = host in ("127.0.0.1", "::1", "localhost")
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_here))


def same_site_path(text: str | None) -> str:
    """A path of this site to go on to; whatever else was asked for becomes the first page."""
    if not text or len(text) > 2_000 or not text.startswith("/") or not text.isprintable():
        return HOME
    if text.startswith("//") or "\\" in text:
        return HOME
    return text


def _identity(issuer: str, claims: Mapping[str, Any]) -> Identity:
    subject, email, name = claims.get("sub"), claims.get("email"), claims.get("name")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or "\x00" in subject:
        raise OidcError("sign_in_failed")
    # Some providers write the flag as a text.
    is_verified = claims.get("email_verified") in (True, "true")
    return Identity(
        issuer=issuer,
        subject=subject,
        email=email if isinstance(email, str) and is_verified else None,
        name=name.strip()[:200] if isinstance(name, str) and name.isprintable() else None,
    )


def _hash(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "replace")).digest()


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")
