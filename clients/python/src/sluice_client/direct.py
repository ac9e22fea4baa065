"""For services that put usage straight on Kafka: the header by which a record proves its producer.

```python
from sluice_client.direct import headers_of

key, value = tenant_id.encode(), json.dumps(event).encode()
await producer.send_and_wait("usage.events", value, key, headers=headers_of(pass_, secret, key, value))
```
"""

import hmac

HEADER = "sluice-producer"


def headers_of(shown: str, secret: str, key: bytes, value: bytes) -> list[tuple[str, bytes]]:
    """The headers of a record with this key and value.

    Args:
        shown, secret: the producer's `pass` and `secret`, as `POST /api/v1/usage/producers` told them.
    """
    code = hmac.digest(secret.encode(), key + b"\n" + value, "sha256").hex()
    return [(HEADER, f"{shown}.{code}".encode())]
