"""One trace follows an event: HTTP request, transaction, outbox, record, handler, its transaction."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, Request
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from libs.contracts.billing import CreditGranted
from libs.contracts.envelope import Envelope
from libs.db.pool import Database, Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from libs.observability.health import Health
from libs.observability.tracing import configure_tracing
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from libs.web.serve import create_app
from tests.libs.messaging.test_exactly_once import credit

TENANT = new_id()
router = APIRouter()


def database_of(request: Request) -> Database:
    found: Database = request.app.state.database
    return found


@router.post("/grant")
async def grant(database: Annotated[Database, Depends(database_of)]) -> str:
    async with database.tenant(TENANT, "test") as tx:
        emit(tx, credit(TENANT).data)
    return "granted"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Everything that is traced in this process from now on."""
    configure_tracing("trial", None)
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
async def services(
    database: TestDatabase, log: MemoryLog
) -> AsyncGenerator[tuple[Database, list[str]], None]:
    """Billing, which answers requests, and ledger, which handles what follows."""
    handled: list[str] = []

    async def on_credit(event: Envelope[Any], tx: Tx) -> None:
        await tx.execute("select $1::uuid", event.id)
        context = trace.get_current_span().get_span_context()
        handled.append(trace.format_trace_id(context.trace_id))

    async with database.open("billing") as billing, database.open("ledger") as ledger:
        log.add(billing, {})
        log.add(ledger, {CreditGranted: on_credit})
        yield billing, handled


async def test_one_trace_from_the_request_to_the_handler(
    services: tuple[Database, list[str]], log: MemoryLog, spans: InMemorySpanExporter
) -> None:
    billing, handled = services
    app = create_app("Trial", health=Health(), routers=[router])
    app.state.database = billing
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        answer = await http.post(
            "/grant", headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
        )
    assert answer.status_code == 200
    await log.settle()

    assert handled == [trace_id]
    ours = [span for span in spans.get_finished_spans() if trace_of(span) == trace_id]
    names = [span.name for span in ours]
    assert "ledger CreditGranted" in names
    assert "postgres transaction" in names
    assert any(name.startswith("POST") for name in names)


def trace_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context else ""
