"""A query and a mutation by the generated Python client."""

import asyncio
import os
from datetime import UTC
from decimal import Decimal

from billing_client import AddCreditInput, Client, ReferenceType

MANDATE, USER = "demo-university", "member-one"
AMOUNT = Decimal("0.000000001")  # which Python itself would write as 1E-9


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['SYSADMIN']}"}
    async with Client(url=f"{os.environ['SERVER']}/graphql", headers=headers) as client:
        credited = await client.add_credit(
            AddCreditInput(
                mandate_id=MANDATE,
                user_id=USER,
                amount=AMOUNT,
                reference_type=ReferenceType.PAYMENT,
                description="Typed",
                idempotency_key="python",
            )
        )
        written = credited.add_credit.transaction
        assert written, credited.add_credit.user_errors
        assert written.amount == AMOUNT
        balance = (await client.balance(mandate_id=MANDATE, user_id=USER)).balance
        assert balance, "there is no balance"
        assert balance.balance == written.balance_after
        assert written.created_at.tzinfo == UTC


asyncio.run(main())
