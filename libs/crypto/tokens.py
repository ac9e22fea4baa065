"""Assertions: who is signed in, signed with Ed25519 by tenants and verified offline by every service.

    sla1.<key id>.<claims>.<signature>

One format and one algorithm: a token cannot choose how it is checked. The key id is the start of the
SHA-256 of the public key, the claims are JSON in base64url, the signature covers all before it. A
token lives 60 seconds; clocks may differ by 5.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from libs.crypto.apikeys import Mode

FORMAT = "sla1"
LIFE_SECONDS_MAX = 60
LEEWAY_SECONDS = 5
TOKEN_LENGTH_MAX = 8_192
PERMISSIONS_MAX = 200
NAME_LENGTH_MAX = 100

_PART = re.compile(r"[A-Za-z0-9_-]+")


class TokenError(Exception):
    """The token does not prove anything; whatever the text, nothing else is raised."""


class MalformedTokenError(TokenError):
    """The text is not a token of the known format."""


class UnknownSigningKeyError(TokenError):
    """The token names a key that is not among the known ones."""


class BadSignatureError(TokenError):
    """The signature is not that of the key named."""


class TokenExpiredError(TokenError):
    """The token's life is over."""


class TokenNotYetValidError(TokenError):
    """The token was issued in the future: a clock is wrong by more than the leeway."""


@dataclass(frozen=True)
class Claims:
    """Who is signed in, acting for which tenant in which mode, with what rights.

    `permissions` are complete: a service does not derive any from the role. Times are aware UTC in
    whole seconds.

    Attributes:
        tenant_version: the version of the tenant's record at signing: whoever lost rights in a later
            one is refused.
        platform_version: the same of the platform's record, where the user is an operator.
    """

    user_id: UUID
    tenant_id: UUID
    mode: Mode
    role: str
    permissions: frozenset[str]
    session_id: UUID
    operator: bool
    issued_at: datetime
    expires_at: datetime
    tenant_version: int = 0
    platform_version: int = 0

    def __post_init__(self) -> None:
        """Check what a signer must keep to.

        Raises:
            ValueError: a mode that does not exist, or a life of 0 or more than 60 seconds.
        """
        if self.mode not in get_args(Mode):
            raise ValueError("the mode must be test or live")
        life = self.expires_at - self.issued_at
        if not timedelta(0) < life <= timedelta(seconds=LIFE_SECONDS_MAX):
            raise ValueError(f"a token lives 1 to {LIFE_SECONDS_MAX} seconds")


def generate_private_key() -> bytes:
    """A new signing key: 32 bytes, to be sealed."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key_of(private_key: bytes) -> str:
    """The public key as it is published: 32 bytes in base64url.

    Raises:
        ValueError: the private key is not 32 bytes.
    """
    return _encode(
        Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()
    )


def key_id_of(public_key: str) -> str:
    """The id under which a public key is published: the start of its SHA-256."""
    return _encode(hashlib.sha256(public_key.encode()).digest()[:12])


def sign(claims: Claims, private_key: bytes) -> str:
    """The token of these claims."""
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    body = json.dumps(_as_json(claims), separators=(",", ":"), sort_keys=True).encode()
    signed = f"{FORMAT}.{key_id_of(public_key_of(private_key))}.{_encode(body)}"
    return f"{signed}.{_encode(key.sign(signed.encode('ascii')))}"


def verify(token: str, public_keys: Mapping[str, str], now: datetime) -> Claims:
    """The claims of a token that one of the keys signed and that is valid now.

    Args:
        token: what the caller sent.
        public_keys: keys as `public_key_of` gives them, by `key_id_of`.
        now: aware UTC.

    Raises:
        TokenError: anything is wrong with the token. Nothing else is raised, whatever the text.
    """
    signed, key_id, body, signature = _split(token)
    public_key = public_keys.get(key_id)
    if public_key is None:
        raise UnknownSigningKeyError("the token names an unknown key")
    try:
        Ed25519PublicKey.from_public_bytes(_decode(public_key)).verify(signature, signed)
    except ValueError:
        raise UnknownSigningKeyError("the key is published in another form") from None
    except InvalidSignature:
        raise BadSignatureError("the signature does not fit") from None
    claims = _claims(body)
    leeway = timedelta(seconds=LEEWAY_SECONDS)
    if now < claims.issued_at - leeway:
        raise TokenNotYetValidError("the token is from the future")
    if now >= claims.expires_at + leeway:
        raise TokenExpiredError("the token has expired")
    return claims


def _split(token: str) -> tuple[bytes, str, bytes, bytes]:
    parts = token.split(".", 4) if len(token) <= TOKEN_LENGTH_MAX else []
    if len(parts) != 4 or parts[0] != FORMAT or not all(map(_PART.fullmatch, parts)):
        raise MalformedTokenError("not a token")
    signed = ".".join(parts[:3]).encode("ascii")
    return signed, parts[1], _decode(parts[2]), _decode(parts[3])


def _claims(body: bytes) -> Claims:
    try:
        data = json.loads(body)
        if not isinstance(data, dict):
            raise MalformedTokenError("the claims are not an object")
        return Claims(
            user_id=UUID(_text(data, "user")),
            tenant_id=UUID(_text(data, "tenant")),
            mode=cast("Mode", _text(data, "mode")),
            role=_text(data, "role"),
            permissions=_permissions(data.get("permissions")),
            session_id=UUID(_text(data, "session")),
            operator=_flag(data, "operator"),
            issued_at=_time(data, "issued_at"),
            expires_at=_time(data, "expires_at"),
            tenant_version=_version(data, "tenant_version"),
            platform_version=_version(data, "platform_version"),
        )
    except (ValueError, OverflowError, OSError, RecursionError):
        raise MalformedTokenError("the claims are not complete and well formed") from None


def _as_json(claims: Claims) -> dict[str, Any]:
    return {
        "user": str(claims.user_id),
        "tenant": str(claims.tenant_id),
        "mode": claims.mode,
        "role": claims.role,
        "permissions": sorted(claims.permissions),
        "session": str(claims.session_id),
        "operator": claims.operator,
        "issued_at": int(claims.issued_at.timestamp()),
        "expires_at": int(claims.expires_at.timestamp()),
        "tenant_version": claims.tenant_version,
        "platform_version": claims.platform_version,
    }


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LENGTH_MAX:
        raise MalformedTokenError(f"the claim {name} is not a text")
    return value


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name)
    if not isinstance(value, bool):
        raise MalformedTokenError(f"the claim {name} is not a flag")
    return value


def _time(data: Mapping[str, Any], name: str) -> datetime:
    value = data.get(name)
    if type(value) is not int:
        raise MalformedTokenError(f"the claim {name} is not a time")
    return datetime.fromtimestamp(value, UTC)


def _version(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if type(value) is not int or value < 0:
        raise MalformedTokenError(f"the claim {name} is not a version")
    return value


def _permissions(value: object) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > PERMISSIONS_MAX:
        raise MalformedTokenError("the permissions are not a list")
    if not all(isinstance(item, str) and len(item) <= NAME_LENGTH_MAX for item in value):
        raise MalformedTokenError("a permission is not a text")
    return frozenset(value)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedTokenError("not base64url") from None
    # Spare bits at the end would let one token be written in several ways.
    if _encode(data) != text:
        raise MalformedTokenError("not base64url in its one form")
    return data
