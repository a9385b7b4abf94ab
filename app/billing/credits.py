"""Money that admins put in by hand."""

from decimal import Decimal
from typing import Any

from app.billing.audit import write_audit_event
from app.billing.checks import check_key, check_text, content_hash, invalid
from app.billing.directory import require_member
from app.billing.errors import BillingError, UserErrorCode
from app.billing.ledger import Ledger, first_result, in_ledger
from app.billing.models import BillingModel, ReferenceType, TransactionType
from app.billing.money import check_amount
from app.billing.viewer import Viewer
from app.database import Database


async def add_credit(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    user_id: str | None,
    amount: Decimal,
    description: str,
    reference_type: ReferenceType,
    idempotency_key: str,
) -> Any:
    """Credits the account that pays: a member's under PREPAY_USER, else the mandate's own.

    A retry with the same key and content returns the first transaction, whatever has changed since.
    """
    viewer.require_sys_admin(mandate_id)
    check_key(idempotency_key)
    digest = content_hash(
        "addCredit",
        {
            "user_id": user_id,
            "amount": amount,
            "description": description,
            "reference_type": reference_type,
        },
    )

    async def work(ledger: Ledger) -> Any:
        await ledger.lock_paying_accounts([user_id] if user_id is not None else [])
        written = await ledger.written_under([idempotency_key])
        if first := first_result(written, idempotency_key, digest):
            return first
        if reference_type not in (ReferenceType.ADMIN, ReferenceType.PAYMENT):
            raise invalid("reference_type must be ADMIN or PAYMENT.", "reference_type")
        check_amount(amount, "amount")
        check_text(description, "description")
        _check_receiver(ledger.terms.billing_model, user_id)
        if user_id is not None:
            await require_member(ledger.connection, mandate_id, user_id)
        account = ledger.paying_account(user_id)
        before = account.balance
        row = ledger.post(
            account,
            TransactionType.CREDIT,
            reference_type,
            amount,
            user_id=user_id,
            actor_id=viewer.actor_id,
            description=description,
            idempotency_key=idempotency_key,
            content_hash=digest,
        )
        await write_audit_event(
            ledger.connection,
            viewer,
            row.created_at,
            "credit.added",
            f"transaction:{row.id}",
            mandate_id=mandate_id,
            before={"balance": before},
            after={"balance": row.balance_after, "amount": amount, "user_id": user_id},
        )
        return row

    return await in_ledger(database, mandate_id, work)


def _check_receiver(model: BillingModel, user_id: str | None) -> None:
    if model == BillingModel.UNLIMITED:
        raise BillingError(
            UserErrorCode.BILLING_MODEL_MISMATCH,
            "Under UNLIMITED there is nothing to credit: set another billing model first.",
            "mandate_id",
        )
    if model == BillingModel.PREPAY_USER and user_id is None:
        raise BillingError(
            UserErrorCode.BILLING_MODEL_MISMATCH,
            "Under PREPAY_USER credit goes to a member: name the user.",
            "user_id",
        )
    if model != BillingModel.PREPAY_USER and user_id is not None:
        raise BillingError(
            UserErrorCode.BILLING_MODEL_MISMATCH,
            f"Under {model} credit goes to the mandate's own account: leave the user out.",
            "user_id",
        )
