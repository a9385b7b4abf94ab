"""How mistakes are put right: the opposite of a transaction, and money moved between accounts."""

from decimal import Decimal
from typing import Any

from sqlalchemy import select

from app.billing.audit import write_audit_event
from app.billing.checks import check_key, check_text, content_hash, invalid
from app.billing.credits import check_unheld
from app.billing.directory import members_by_user
from app.billing.enums import AccountType, ReferenceType, TransactionType
from app.billing.errors import BillingError, UserErrorCode
from app.billing.funds import Owner
from app.billing.ledger import Ledger, in_ledger
from app.billing.models import transactions
from app.billing.money import ZERO, check_amount
from app.billing.viewer import Viewer
from app.database import Database

REVERSIBLE = (ReferenceType.USAGE, ReferenceType.ADMIN, ReferenceType.PAYMENT)


async def reverse_transaction(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    transaction_id: str,
    *,
    reason: str,
    idempotency_key: str,
) -> Any:
    """Writes the opposite of a USAGE, ADMIN or PAYMENT transaction, once, and returns it.

    It works on disabled and unused accounts and may leave a balance below 0. ALREADY_REVERSED
    the second time, unless under the same key.
    """
    viewer.require_sys_admin(mandate_id)
    check_key(idempotency_key)
    digest = content_hash(
        "reverseTransaction", {"transaction_id": transaction_id, "reason": reason}
    )

    async def work(ledger: Ledger) -> Any:
        original = await _find(ledger, transactions.c.id == transaction_id)
        if original is not None:
            account = await ledger.lock_account(original.account_id)
        if first := await ledger.first_result(idempotency_key, digest):
            return first
        if original is None:
            raise BillingError(
                UserErrorCode.NOT_FOUND,
                "There is no such transaction in this mandate.",
                "transaction_id",
            )
        check_text(reason, "reason")
        if original.reference_type not in REVERSIBLE:
            raise invalid(
                f"A transaction of type {original.reference_type} cannot be reversed, only"
                f" {', '.join(REVERSIBLE)}.",
                "transaction_id",
            )
        if await _find(ledger, transactions.c.reverses_id == transaction_id):
            raise BillingError(
                UserErrorCode.ALREADY_REVERSED,
                "The transaction was reversed before: nothing is left to undo.",
                "transaction_id",
            )
        is_debit = original.transaction_type == TransactionType.DEBIT
        before = account.balance
        row = ledger.post(
            account,
            TransactionType.CREDIT if is_debit else TransactionType.DEBIT,
            ReferenceType.REVERSAL,
            original.amount,
            user_id=original.user_id,
            actor_id=viewer.actor_id,
            description=reason,
            workflow_id=original.workflow_id,
            feature_code=original.feature_code,
            aicore_provider=original.aicore_provider,
            aicore_model=original.aicore_model,
            reverses_id=original.id,
            reversed_type=original.reference_type,
            idempotency_key=idempotency_key,
            content_hash=digest,
        )
        await write_audit_event(
            ledger.connection,
            viewer,
            row.created_at,
            "transaction.reversed",
            f"transaction:{original.id}",
            mandate_id=mandate_id,
            before={"balance": before},
            after={"balance": row.balance_after, "reason": reason, "reversal": row.id},
        )
        return row

    return await in_ledger(database, mandate_id, work)


async def _find(ledger: Ledger, condition: Any) -> Any:
    rows = await ledger.connection.execute(
        select(transactions).where(transactions.c.mandate_id == ledger.mandate_id, condition)
    )
    return rows.first()


async def transfer_credit(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    *,
    from_user_id: str | None,
    to_user_id: str | None,
    amount: Decimal,
    description: str,
    idempotency_key: str,
) -> tuple[Any, Any]:
    """Moves money between two accounts of a mandate; returns the debit and the credit.

    None stands for the mandate's own account. So that nothing is stranded, the one who gives may
    have left the mandate, and the one who receives too, up to what they owe. INSUFFICIENT_FUNDS
    beyond what is there and not held.
    """
    viewer.require_sys_admin(mandate_id)
    check_key(idempotency_key)
    content = {
        "from_user_id": from_user_id,
        "to_user_id": to_user_id,
        "amount": amount,
        "description": description,
    }
    digest = content_hash("transferCredit", content)

    async def work(ledger: Ledger) -> tuple[Any, Any]:
        giver, receiver = _owner(from_user_id), _owner(to_user_id)
        await ledger.lock(giver, receiver)
        if first := await ledger.first_result(idempotency_key, digest):
            return first, await _find(ledger, transactions.c.id == first.counterpart_id)
        check_amount(amount, "amount")
        check_text(description, "description")
        if giver == receiver:
            raise invalid("to_user_id must name another account than the giver's.", "to_user_id")
        members = await members_by_user(
            ledger.connection, mandate_id, {from_user_id or "", to_user_id or ""}
        )
        source, target = ledger.account(giver), ledger.account(receiver)
        if from_user_id is not None and from_user_id not in members:
            raise _no_such_user("from_user_id")
        # Who has left is not given money, but what they owe can be settled.
        owes = not target.is_new and target.balance + amount <= ZERO
        if to_user_id is not None and (
            to_user_id not in members or (members[to_user_id].has_left and not owes)
        ):
            raise _no_such_user("to_user_id")
        check_unheld(ledger, source, amount)
        before = {"from_balance": source.balance, "to_balance": target.balance}
        said: dict[str, Any] = {"actor_id": viewer.actor_id, "description": description}
        debit = ledger.post(
            source,
            TransactionType.DEBIT,
            ReferenceType.TRANSFER,
            amount,
            user_id=from_user_id,
            idempotency_key=idempotency_key,
            content_hash=digest,
            **said,
        )
        credit = ledger.post(
            target,
            TransactionType.CREDIT,
            ReferenceType.TRANSFER,
            amount,
            user_id=to_user_id,
            counterpart_id=debit.id,
            **said,
        )
        debit.counterpart_id = credit.id
        await write_audit_event(
            ledger.connection,
            viewer,
            debit.created_at,
            "credit.transferred",
            f"transaction:{debit.id}",
            mandate_id=mandate_id,
            before=before,
            after={"from_balance": source.balance, "to_balance": target.balance, **content},
        )
        return debit, credit

    return await in_ledger(database, mandate_id, work)


def _owner(user_id: str | None) -> Owner:
    return AccountType.MANDATE if user_id is None else AccountType.USER, user_id


def _no_such_user(field: str) -> BillingError:
    return BillingError(UserErrorCode.NOT_FOUND, "There is no such user in this mandate.", field)
