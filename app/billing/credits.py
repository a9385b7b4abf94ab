"""Money that admins put in and take out by hand."""

from decimal import Decimal
from typing import Any

from app.billing.audit import write_audit_event
from app.billing.checks import check_key, check_text, content_hash, invalid
from app.billing.directory import require_member
from app.billing.enums import BillingModel, NoticeType, ReferenceType, TransactionType
from app.billing.errors import BillingError, UserErrorCode
from app.billing.ledger import Ledger, in_ledger
from app.billing.locked import LockedAccount
from app.billing.money import check_amount, format_decimal
from app.billing.viewer import Viewer
from app.database import Database


async def add_credit(database: Database, viewer: Viewer, mandate_id: str, **wanted: Any) -> Any:
    """Credits the account that pays: a member's under PREPAY_USER, else the mandate's own.

    `wanted` are user_id, amount, description, reference_type and idempotency_key. A retry with the
    same key and content returns the first transaction, whatever has changed since.
    """
    return await _move(database, viewer, mandate_id, TransactionType.CREDIT, **wanted)


async def add_debit(database: Database, viewer: Viewer, mandate_id: str, **wanted: Any) -> Any:
    """As add_credit, but takes money out: INSUFFICIENT_FUNDS beyond what is there and not held."""
    return await _move(database, viewer, mandate_id, TransactionType.DEBIT, **wanted)


async def _move(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    transaction_type: TransactionType,
    *,
    user_id: str | None,
    amount: Decimal,
    description: str,
    reference_type: ReferenceType,
    idempotency_key: str,
) -> Any:
    is_credit = transaction_type == TransactionType.CREDIT
    viewer.require_sys_admin(mandate_id)
    check_key(idempotency_key)
    digest = content_hash(
        "addCredit" if is_credit else "addDebit",
        {
            "user_id": user_id,
            "amount": amount,
            "description": description,
            "reference_type": reference_type,
        },
    )

    async def work(ledger: Ledger) -> Any:
        owner = ledger.payer(user_id)
        await ledger.lock(owner)
        if first := await ledger.first_result(idempotency_key, digest):
            return first
        if reference_type not in (ReferenceType.ADMIN, ReferenceType.PAYMENT):
            raise invalid("reference_type must be ADMIN or PAYMENT.", "reference_type")
        check_amount(amount, "amount")
        check_text(description, "description")
        _check_payer(ledger.terms.billing_model, user_id)
        if user_id is not None:
            await require_member(ledger.connection, mandate_id, user_id)
        account = ledger.account(owner)
        if not is_credit:
            check_unheld(ledger, account, amount)
        before = account.balance
        row = ledger.post(
            account,
            transaction_type,
            reference_type,
            amount,
            user_id=user_id,
            actor_id=viewer.actor_id,
            description=description,
            idempotency_key=idempotency_key,
            content_hash=digest,
        )
        if is_credit:
            ledger.notify(
                NoticeType.CREDIT_ADDED,
                {
                    "userId": user_id,
                    "accountId": account.id,
                    "transactionId": row.id,
                    "amount": format_decimal(amount),
                    "currency": ledger.terms.currency,
                    "balance": format_decimal(account.balance),
                },
            )
        await write_audit_event(
            ledger.connection,
            viewer,
            row.created_at,
            "credit.added" if is_credit else "debit.added",
            f"transaction:{row.id}",
            mandate_id=mandate_id,
            before={"balance": before},
            after={"balance": row.balance_after, "amount": amount, "user_id": user_id},
        )
        return row

    return await in_ledger(database, mandate_id, work)


def check_unheld(ledger: Ledger, account: LockedAccount, amount: Decimal) -> None:
    """What is taken out by hand must be there, without what is held and without any credit limit."""
    there = account.balance - ledger.held_on(account)
    if amount > there:
        raise BillingError(
            UserErrorCode.INSUFFICIENT_FUNDS,
            f"{format_decimal(amount)} is more than the {format_decimal(there)} that the account"
            " has and does not hold.",
            "amount",
        )


def _check_payer(model: BillingModel, user_id: str | None) -> None:
    if model == BillingModel.UNLIMITED:
        raise BillingError(
            UserErrorCode.BILLING_MODEL_MISMATCH,
            "Under UNLIMITED there is nothing to credit or debit: set another billing model first.",
            "mandate_id",
        )
    if model == BillingModel.PREPAY_USER and user_id is None:
        raise BillingError(
            UserErrorCode.BILLING_MODEL_MISMATCH,
            "Under PREPAY_USER the money is a member's: name the user.",
            "user_id",
        )
    if model != BillingModel.PREPAY_USER and user_id is not None:
        raise BillingError(
            UserErrorCode.BILLING_MODEL_MISMATCH,
            f"Under {model} the money is the mandate's own: leave the user out.",
            "user_id",
        )
