"""SQL that forgets a customer. The mirror holds nothing of people: see `objects.mirrored`."""

from uuid import UUID

from libs.db.pool import Tx


async def forget(tx: Tx, customer_id: UUID) -> None:
    """Destroy what tells who a customer was; it stays so for what is recorded later.

    A request that Stripe has not answered yet keeps its parameters: it must be sent as it was.
    """
    await tx.execute(
        "insert into erased_customer (tenant_id, mode, customer_id) values ($1, $2, $3) "
        "on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )
    await tx.execute(
        "update known_customer set name = null, personal = null, wrapped = null "
        "where tenant_id = $1 and mode = $2 and customer_id = $3",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )
    await tx.execute(
        "update payment set receipt_email = null, receipt_url = null "
        "where tenant_id = $1 and mode = $2 and customer_id = $3",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )
    await tx.execute(
        "update customer_link set request = "
        "(request #- '{metadata,billing_email}' #- '{metadata,name}') - 'email' - 'name' "
        "where tenant_id = $1 and mode = $2 and customer_id = $3 and stripe_customer_id is not null",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )
    await tx.execute(
        "update checkout_session set request = request - 'customer_email' "
        "where tenant_id = $1 and mode = $2 and customer_id = $3 and stripe_session_id is not null",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )
