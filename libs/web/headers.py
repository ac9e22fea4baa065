"""What the headers of a request say of its caller and its tenant; each has two names."""

from fastapi import Request

from libs.web.problems import InvalidRequest


def credential(request: Request) -> str | None:
    """The key or assertion presented.

    Raises:
        InvalidRequest: it stands in two headers, which differ.
    """
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = request.headers.get("x-api-key")
    if scheme.lower() == "bearer" and bearer:
        if key and key != bearer:
            raise InvalidRequest("`Authorization` and `X-API-Key` differ. Send one of them.")
        return bearer.strip()[:4096]
    return key[:4096] if key else None


def tenant_header(request: Request) -> str | None:
    """The tenant named in a header.

    Raises:
        InvalidRequest: the two headers name different ones.
    """
    one = request.headers.get("x-tenant-id")
    other = request.headers.get("x-organization-id")
    if one and other and one != other:
        raise InvalidRequest("`X-Tenant-ID` and `X-Organization-ID` differ. Send one of them.")
    return one or other or None
