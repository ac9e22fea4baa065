"""Publish usage events to Sluice from any program, without ever getting in its way.

```python
from sluice_client import Client

sluice = Client("https://billing.example.com", api_key)
sluice.track("api_call", {"bytes": 1024}, customer="cus_…")
```

`Client` sends from a thread, `AsyncClient` from a task. Both make an event's id and time when it is
tracked, so that a retry, also after a crash, is the same event and counts once.
"""

from sluice_client.asynchronous import AsyncClient
from sluice_client.delivery import Rejection
from sluice_client.errors import BufferFullError, ClosedError, InvalidEventError, SluiceClientError
from sluice_client.options import Options
from sluice_client.queue import Counters
from sluice_client.threaded import Client

__all__ = [
    "AsyncClient",
    "BufferFullError",
    "Client",
    "ClosedError",
    "Counters",
    "InvalidEventError",
    "Options",
    "Rejection",
    "SluiceClientError",
]
