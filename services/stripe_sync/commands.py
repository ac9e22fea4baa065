"""Commands to Stripe: a row, calls under `<command id>:<step>`, and what came of it.

Each step looks at Stripe before it acts, so a command can be taken up at any point by any process,
also after Stripe has forgotten the idempotency keys.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta

import structlog

from libs.clock import utc_now
from libs.contracts.billing import CommandLine, CompleteInvoice
from libs.contracts.envelope import Envelope
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, StripeCommandFailed
from libs.db.pool import TRANSIENT_ERRORS, Cause, Database, Row, Tx
from libs.messaging.outbox import emit
from libs.money import Money, MoneyError, from_stripe, to_stripe
from libs.observability.tracing import extract, inject, start_span
from services.stripe_sync import fetching, store_marks, store_work
from services.stripe_sync.client import Json, StripeCallError, StripeRefusedError
from services.stripe_sync.concurrency import all_of
from services.stripe_sync.identities import Identities
from services.stripe_sync.lease import leased
from services.stripe_sync.objects import id_of
from services.stripe_sync.objects_invoices import line_id_of
from services.stripe_sync.once import Writer

log = structlog.get_logger()

COMPLETE_INVOICE = "complete_invoice"
BATCH_COMMANDS = 20
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.5, 600.0
DOUBLINGS_MAX = 11
DESCRIPTION_LENGTH_MAX = 500


async def take_complete_invoice(tx: Tx, event: Envelope[CompleteInvoice]) -> None:
    """Enter the command; a worker carries it out."""
    await store_work.insert_command(
        tx,
        event.data.command_id,
        COMPLETE_INVOICE,
        event.data.model_dump(mode="json"),
        event,
        inject(),
    )


@dataclass(frozen=True)
class CommandWorker:
    """Carries out commands on the platform's account."""

    database: Database
    identities: Identities

    async def run_once(self) -> int:
        """Carry out what is due; how many commands were taken up."""
        async with self.database.maintenance() as tx:
            commands = await store_work.due_commands(tx, utc_now(), BATCH_COMMANDS)
        await all_of(self._carry_out_leased(row) for row in commands)
        return len(commands)

    async def _carry_out_leased(self, row: Row) -> None:
        async with leased(self.database, f"command:{row['command_id']}") as lease:
            if lease is None:
                return
            try:
                with start_span(f"command {row['kind']}", parent=extract(row["trace"])):
                    await self._carry_out(row)
            except TRANSIENT_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001 - one odd command must not hold up the others
                detail = f"{type(error).__name__}: {error}"
                log.error("stripe_command_odd", command=str(row["command_id"]), error=detail)  # noqa: TRY400
                await self._later(row, detail)

    async def _carry_out(self, row: Row) -> None:
        api = self.identities.platform(row["mode"])
        if api is None:
            await self._later(row, "no Stripe key for this mode is configured")
            return
        command = CompleteInvoice.model_validate(row["payload"])
        try:
            await complete_invoice(
                Writer(self.database, api, row["tenant_id"], row["mode"]), command
            )
        except (StripeRefusedError, MoneyError) as error:
            await self._fail(row, command, error)
        except StripeCallError as error:
            await self._later(row, str(error))
        else:
            async with self._transaction(row) as tx:
                await store_work.end_command(tx, row["command_id"], "done", None)
                await _refetch(tx, command)

    async def _fail(self, row: Row, command: CompleteInvoice, error: Exception) -> None:
        log.error("stripe_command_failed", command=str(row["command_id"]), error=str(error))
        code = error.code if isinstance(error, StripeCallError) else type(error).__name__
        async with self._transaction(row) as tx:
            if await store_work.end_command(tx, row["command_id"], "failed", str(error)):
                emit(
                    tx,
                    StripeCommandFailed(
                        command_id=row["command_id"], code=code, detail=str(error)[:500]
                    ),
                    effective_at=row["effective_at"],
                )
                await _refetch(tx, command)

    async def _later(self, row: Row, error: str) -> None:
        pause = min(PAUSE_SECONDS_MIN * 2 ** min(row["attempts"], DOUBLINGS_MAX), PAUSE_SECONDS_MAX)
        until = utc_now() + timedelta(seconds=pause)
        async with self._transaction(row) as tx:
            await store_work.postpone_command(tx, row["command_id"], until, error)

    def _transaction(self, row: Row) -> AbstractAsyncContextManager[Tx]:
        cause = Cause(row["causation_id"], row["correlation_id"])
        return self.database.tenant(row["tenant_id"], row["mode"], cause=cause)


async def _refetch(tx: Tx, command: CompleteInvoice) -> None:
    await store_marks.mark(tx, PLATFORM_ACCOUNT, [("invoice", command.stripe_invoice_id)])


async def complete_invoice(writer: Writer, command: CompleteInvoice) -> None:
    """Add the lines that are missing, finalize, and have Stripe collect.

    Raises:
        StripeRefusedError: it cannot be done; for one, the draft went out without these lines.
        StripeCallError: not now.
    """
    path = f"/v1/invoices/{command.stripe_invoice_id}"
    invoice = await writer.api.get("invoice.retrieve", path)
    await fetching.complete_lines(writer.api, invoice)
    there = {line_id_of(line) for line in invoice["lines"]["data"]}
    missing = [line for line in command.lines if line.line_id not in there]
    if invoice["status"] == "draft":
        for line in missing:
            await _add_line(writer, command, invoice, line)
        invoice = await writer.post(
            "invoice.finalize",
            f"{path}/finalize",
            {"auto_advance": True},
            key=f"{command.command_id}:finalize",
        )
    elif missing:
        raise StripeRefusedError(
            "invoice_not_draft",
            f"the invoice is {invoice['status']} and {len(missing)} lines are not on it",
        )
    await _collect(writer, command, invoice)


async def _add_line(
    writer: Writer, command: CompleteInvoice, invoice: Json, line: CommandLine
) -> None:
    params: Json = {
        "customer": id_of(invoice["customer"]),
        "invoice": command.stripe_invoice_id,
        "amount": to_stripe(Money(line.amount_minor, command.currency)),
        "currency": command.currency.lower(),
        "description": line.description[:DESCRIPTION_LENGTH_MAX],
        "metadata": {
            "tenant_id": str(writer.tenant_id),
            "invoice_id": str(command.invoice_id),
            "line_id": str(line.line_id),
            "command_id": str(command.command_id),
        },
    }
    if line.period_from is not None and line.period_to is not None:
        params["period"] = {
            "start": int(line.period_from.timestamp()),
            "end": int(line.period_to.timestamp()),
        }
    await writer.post(
        "invoice_item.create",
        "/v1/invoiceitems",
        params,
        key=f"{command.command_id}:{line.line_id}",
    )


async def _collect(writer: Writer, command: CompleteInvoice, invoice: Json) -> None:
    """Pay what Stripe did not collect when it finalized.

    A decline is the invoice's fate, not the command's: Stripe's own retries follow.
    """
    due = from_stripe(invoice["amount_remaining"], invoice["currency"]).amount_minor
    automatic = invoice["collection_method"] == "charge_automatically"
    if invoice["status"] != "open" or invoice["attempted"] or not due or not automatic:
        return
    try:
        await writer.post(
            "invoice.pay",
            f"/v1/invoices/{command.stripe_invoice_id}/pay",
            {},
            key=f"{command.command_id}:pay",
        )
    except StripeRefusedError as error:
        log.info("invoice_not_collected", invoice=command.stripe_invoice_id, code=error.code)
