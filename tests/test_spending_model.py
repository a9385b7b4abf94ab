"""Holds, limits, corrections, settings and alerts in any order, against a plain model of the rules.

After every step both have given the same answer and stand the same.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, Phase, event
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.accounts import accounts_by_id, balances_by_user, update_account
from app.billing.directory import remove_membership, upsert_membership
from app.billing.enums import BillingModel
from app.billing.errors import BillingError
from app.billing.holds import NewHold, create_hold, expire_holds, holds_by_id
from app.billing.limits import spend_limits
from app.billing.models import accounts, daily_usage, holds, outbox, transactions
from app.billing.spending import SpendCheck, check_spending
from app.billing.usage import UsageEvent, UsageMode
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.plain_books import (
    PAYS,
    RUNNING_TOTAL,
    ZERO,
    ZONE,
    Alert,
    Correction,
    Join,
    Leave,
    Move,
    PlainAccount,
    PlainBooks,
    PlainHold,
    PlainRow,
    Refused,
    Request,
    Reversal,
    Rule,
    SetAccount,
    SetLimit,
    SetTerms,
    Settlement,
    Transfer,
    side,
)
from tests.proof import prove
from tests.spending_steps import (
    MEMBERS,
    PAYER,
    USERS,
    Again,
    Check,
    Close,
    Prove,
    Switch,
    Undo,
    edge,
    first_terms,
    steps,
)
from tests.world import (
    GATEWAY,
    PREPAY_USER,
    PROVIDERS,
    add_mandate,
    add_user,
    change_settings,
    credit,
    debit,
    expire,
    fresh,
    outcomes,
    read_rows,
    record,
    release,
    reverse,
    settle,
    transfer,
)

NOBODY = "00000000-0000-7000-8000-000000000000"

SETTINGS = hypothesis_settings(
    max_examples=10,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
ROUNDS = 3
"""Of ten examples each: from the eleventh on most would repeat what another one did."""


class Spending(RuleBasedStateMachine):
    """What is done to one mandate, and to its plain books.

    One rule takes every step: of several, Hypothesis would leave out half in most of its examples.
    """

    runner: asyncio.Runner
    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.books = PlainBooks(MEMBERS)
        self.mandate_id = fresh("mandate")
        self.own_keys = map("key-{}".format, itertools.count(1))
        self.sent: list[Request] = []
        self.balances: dict[str, Any] = {}
        self.limits: dict[str, Any] = {}

    @initialize(first=first_terms, paid=st.sampled_from([None, Decimal(20)]))
    def begin(self, first: dict[str, Any], paid: Decimal | None) -> None:
        async def make() -> None:
            await add_user(self.database, "carol")
            await add_mandate(self.database, self.mandate_id, users=MEMBERS, time_zone=ZONE)

        self.runner.run(make())
        if first:
            self.step(SetTerms(first))
        if paid:
            self.step(Move("CREDIT", PAYER, paid, ""))

    @rule(step=steps)
    def step(self, step: Any) -> None:
        match step:
            case list():
                self.record([replace(each, **self.spend(each)) for each in step])
            case Check(new):
                self.check(replace(new, **self.spend(new)))
            case NewHold():
                self.hold(replace(step, **self.spend(step)))
            case Close(place, how):
                if held := sorted(self.books.holds.values(), key=PlainHold.may_be_settled):
                    self.close(held[-1 - place % len(held)], how)
            case Undo(place, key):
                rows = self.books.rows
                self.ask(Reversal(rows[-1 - place % len(rows)] if rows else None, self.key(key)))
            case Move() | Transfer():
                self.ask(self.resolved(step))
            case Switch(model):
                self.switch(model)
            case Prove():
                assert self.runner.run(prove(self.database, self.mandate_id)).mismatches == []
            case Again(place, is_other):
                if self.sent:
                    self.again(self.sent[-1 - place % len(self.sent)], is_other=is_other)
            case _:
                self.change(step)

    # What stands for something else until it is sent

    def key(self, key: str) -> str:
        return key or next(self.own_keys)

    def spend(self, wanted: UsageEvent | NewHold) -> dict[str, Any]:
        left = self.books.left_to(wanted.user_id)
        if isinstance(wanted, UsageEvent) and wanted.mode == UsageMode.RECORD:
            left = self.books.payer(wanted.user_id).balance
        return {
            "mandate_id": self.mandate_id,
            "idempotency_key": self.key(wanted.idempotency_key),
            "amount": edge(wanted.amount, left),
        }

    def resolved(self, wanted: Move | Transfer) -> Move | Transfer:
        if isinstance(wanted, Move) and wanted.user == PAYER:
            user = "alice" if self.books.model == PREPAY_USER else None
            wanted = replace(wanted, user=user)
        account = (
            self.books.payer(wanted.user)
            if isinstance(wanted, Move)
            else self.books.account(side(wanted.giver))
        )
        there = account.balance - self.books.held(account)
        if isinstance(wanted, Move) and wanted.kind == "CREDIT":
            there = -account.balance
        return replace(
            wanted,
            amount=edge(wanted.amount, there),
            idempotency_key=self.key(wanted.idempotency_key),
        )

    # What is asked of the program

    def record(self, batch: list[UsageEvent]) -> None:
        words: list[str] = []
        self.sent += batch

        async def work() -> list[Any]:
            results = await record(self.database, *batch)
            assert outcomes(results) == words
            return [each.transaction and each.transaction.id for each in results]

        def predict() -> list[PlainRow | None]:
            answers: list[PlainRow | None] = []
            for each in batch:
                word = "DUPLICATE" if each.idempotency_key in self.books.keys else "RECORDED"
                try:
                    answers.append(self.books.take(each))
                    words.append(word)
                except Refused as refused:
                    answers.append(None)
                    words.append(str(refused))
                event(f"{each.mode} {words[-1]}")
            return answers

        self.agree("batch", work, predict)
        if all(each.mode == UsageMode.REQUIRE_FUNDS for each in batch):
            taken = [call for call, word in zip(batch, words, strict=True) if word == "RECORDED"]
            self.check_covered([call.user_id for call in taken])
            # One of another day is judged by the limit of its own period.
            self.check_within_limit([call.user_id for call in taken if not call.occurred_at])

    def ask(self, request: Correction) -> None:
        named: dict[str, Any] = {"mandate_id": self.mandate_id, "key": request.idempotency_key}
        self.sent.append(request)

        async def work() -> Any:
            row: Any
            match request:
                case Move(kind, user, amount, _, text):
                    move = credit if kind == "CREDIT" else debit
                    row = await move(self.database, str(amount), user, description=text, **named)
                case Transfer(giver, receiver, amount, _, text):
                    row, other_leg = await transfer(
                        self.database, str(amount), giver, receiver, description=text, **named
                    )
                    assert (row.id, other_leg.id) == (other_leg.counterpart_id, row.counterpart_id)
                case Reversal(of, _, text):
                    this = str(of.id) if of else NOBODY
                    row = await reverse(self.database, this, reason=text, **named)
            return row.id

        name = request.kind if isinstance(request, Move) else type(request).__name__
        if request.idempotency_key in self.books.keys:
            name += " under a used key"
        self.agree(name, work, lambda: self.books.take(request))

    def again(self, request: Request, *, is_other: bool) -> None:
        if is_other:
            request = replace(request, description="Other")
        if isinstance(request, UsageEvent):
            self.record([request])
        else:
            self.ask(request)

    def check(self, new: NewHold) -> None:
        """Writes nothing; PostgreSQL would refuse it."""
        if 0 <= new.amount <= 1_000_000:
            self.check_spending(new)
            self.agree("check", self.nothing, lambda: None)

    def hold(self, new: NewHold) -> None:
        is_new = new.idempotency_key not in self.books.holds
        if is_new and 0 < new.amount <= 1_000_000 and 1 <= new.ttl_seconds <= 86_400:
            self.check_spending(new)
        answer = self.agree("hold", lambda: self.create(new), lambda: self.books.hold(new))
        if is_new and isinstance(answer, PlainHold):
            self.check_covered([new.user_id])
            self.check_within_limit([new.user_id])

    async def create(self, new: NewHold) -> str:
        return str((await create_hold(self.database, GATEWAY, new, PROVIDERS)).id)

    def close(self, hold: PlainHold, how: Settlement | str) -> None:
        name, this = f"{how} when {hold.status}", str(hold.id)
        before = hold.settlement or Settlement(hold.amount)
        match how:
            case Settlement():
                how = replace(how, amount=edge(how.amount, hold.amount))
                size = "for all" if how.amount == hold.amount else "for less"
                size = "for more" if how.amount > hold.amount else size
                self.settle(f"settle {size} when {hold.status}", hold, how)
            case "settle again":
                self.settle(name, hold, before)
            case "settle otherwise":
                self.settle(name, hold, replace(before, description="Other"))
            case "hold again":
                again = replace(hold.content, ttl_seconds=60)
                self.agree(name, lambda: self.create(again), lambda: self.books.hold(again))
            case "hold otherwise":
                other = replace(hold.content, amount=hold.amount + 1)
                self.agree(name, lambda: self.create(other), lambda: self.books.hold(other))
            case "release":
                self.agree(name, lambda: self.release(this), lambda: self.books.release(hold))
            case "expire":
                self.agree(name, lambda: self.expire(this), lambda: self.books.expire(hold))
            case "tidy":
                self.agree(name, lambda: self.tidy(this), lambda: self.books.expire(hold))

    def settle(self, name: str, hold: PlainHold, settlement: Settlement) -> None:
        async def work() -> Any:
            said = {**vars(settlement), "mandate_id": self.mandate_id}
            return (await settle(self.database, str(hold.id), said.pop("amount"), **said)).id

        self.agree(name, work, lambda: self.books.settle(hold, settlement))

    async def release(self, hold_id: str) -> str:
        await release(self.database, hold_id, mandate_id=self.mandate_id)
        return hold_id

    async def expire(self, hold_id: str) -> None:
        await expire(self.database, hold_id, mandate_id=self.mandate_id)

    async def tidy(self, hold_id: str) -> None:
        await self.expire(hold_id)
        await expire_holds(self.database)
        stored = await read_rows(self.database, holds, mandate_id=self.mandate_id)
        plain = self.books.holds.values()
        assert {row.id: row.status for row in stored} == {hold.id: hold.status for hold in plain}

    async def nothing(self) -> None:
        pass

    def change(self, step: Rule) -> None:
        name = type(step).__name__
        if isinstance(step, SetTerms):
            name += self.model_change(step.changes)
        self.agree(name, lambda: self.set(step), lambda: self.books.change(step))

    def switch(self, model: BillingModel) -> None:
        for account in list(self.books.accounts.values()):
            kind, user = account.owner
            if kind == RUNNING_TOTAL or kind != PAYS[self.books.model]:
                continue
            if account.balance > 0:
                call = UsageEvent(self.mandate_id, user or "alice", account.balance, self.key(""))
                self.record([call])
            if account.balance < 0:
                self.ask(Move("CREDIT", user, -account.balance, self.key("")))
        self.change(SetTerms({"billing_model": model}))

    async def set(self, step: Rule) -> None:
        match step:
            case SetTerms(changes):
                await change_settings(self.database, self.mandate_id, **changes)
            case SetAccount(place, changes):
                account = self.books.opened(place)
                this = str(account.id) if account else NOBODY
                await update_account(self.database, OPERATOR, self.mandate_id, this, changes)
            case SetLimit(user, amount, period):
                limit = None if amount is None else {"amount": amount, "period": period}
                await self.join(user, {"spend_limit": limit})
            case Join(user):
                await self.join(user, {})
            case Leave(user):
                await remove_membership(self.database, OPERATOR, self.mandate_id, user)

    async def join(self, user: str, changes: dict[str, Any]) -> None:
        await upsert_membership(self.database, OPERATOR, self.mandate_id, user, changes)

    def model_change(self, changes: Mapping[str, Any]) -> str:
        """What a change of the model meets, for the counts of what was tried."""
        if changes.get("billing_model", self.books.model) == self.books.model:
            return ""
        opened = [each for each in self.books.accounts.values() if each.owner[0] != RUNNING_TOTAL]
        money = any(each.balance for each in opened)
        held = any(self.books.held(each) for each in opened)
        return f" model, accounts {bool(opened)}, money {money}, holds {held}"

    # Whether both agree

    def check_spending(self, new: NewHold) -> None:
        """Asking before gives the answer and the figures by which the hold would be judged."""
        try:
            self.books.spend(new.user_id, new.amount, new.aicore_provider)
            expected: str | None = None
        except Refused as refused:
            expected = str(refused)
        check = self.runner.run(
            check_spending(
                self.database,
                GATEWAY,
                self.mandate_id,
                amount=new.amount,
                user_id=new.user_id,
                provider=new.aicore_provider,
                registered=PROVIDERS,
            )
        )
        event(f"check: {expected}")
        if expected == "NOT_FOUND":
            assert check is None
            return
        assert isinstance(check, SpendCheck)
        assert check.denial == expected
        assert shown(check.balance) == self.balance(new.user_id)

    def check_covered(self, users: Sequence[str]) -> None:
        """Nothing was promised that is not there: no model is needed to see it."""
        for balance in map(self.balances.__getitem__, users):
            if self.books.terms["block_on_zero_balance"] or balance.credit_limit is not None:
                assert balance.available is None or balance.available >= 0

    def check_within_limit(self, users: Sequence[str]) -> None:
        for limit in map(self.limits.__getitem__, users):
            assert limit is None or limit.spent + limit.held <= limit.amount

    def agree(
        self, name: str, work: Callable[[], Awaitable[Any]], predict: Callable[[], Any]
    ) -> Any:
        """Both give the same answer and stand the same afterwards; what the model said.

        A row or a hold is answered by its id, a refusal by its code.
        """
        try:
            expected = predict()
        except Refused as refused:
            expected = str(refused)
        for change in self.books.judge_levels():
            event(
                f"alert: {change}" + ("" if self.books.terms["notify_on_warning"] else ", silent")
            )
        event(f"{name}: {expected if isinstance(expected, str) else 'DONE'}")
        self.runner.run(self.compare(work, expected))
        return expected

    async def compare(self, work: Callable[[], Awaitable[Any]], expected: Any) -> None:
        answer, refusal = None, None
        try:
            answer = await work()
        except BillingError as error:
            refusal = str(error.code)
        assert refusal == (expected if isinstance(expected, str) else None)
        if isinstance(expected, PlainHold):
            expected.id = expected.id or answer
        async with self.database.read() as connection:
            await self.compare_books(connection)
            await self.compare_views(connection)
        if isinstance(expected, PlainRow | PlainHold):
            assert answer == expected.id
        if isinstance(expected, list):
            assert answer == [row and row.id for row in expected]

    async def compare_books(self, connection: AsyncConnection) -> None:
        """Accounts, transactions and what follows from them."""
        stored = {
            table.name: (
                await connection.execute(
                    select(table)
                    .where(table.c.mandate_id == self.mandate_id)
                    .order_by(*table.primary_key)
                )
            ).all()
            for table in (accounts, transactions, daily_usage, outbox)
        }
        found = {(row.account_type, row.user_id): row for row in stored["account"]}
        assert set(found) == set(self.books.accounts)
        for owner, account in self.books.accounts.items():
            history = [row for row in stored["transaction"] if row.account_id == found[owner].id]
            compare_account(found[owner], history, account)
        for plain, row in self.pairs(stored["transaction"]):
            assert row.hold_id == (plain.hold and plain.hold.id)
            assert row.reverses_id == (plain.reverses and plain.reverses.id)
            assert row.counterpart_id == (plain.other_leg and plain.other_leg.id)
        days = {
            (
                row.local_date,
                row.user_id,
                row.account_id,
                row.aicore_provider,
                row.aicore_model,
                row.feature_code,
            ): (row.cost, row.transaction_count)
            for row in stored["daily_usage"]
        }
        assert days == {
            (day, user, account.id, *(name or "" for name in call)): cost
            for (day, user, account, *call), cost in self.books.days().items()
        }
        told = [row for row in stored["outbox"] if row.notice_type.startswith("balance.")]
        assert {row.channel for row in told} <= {"WEBHOOK"}
        assert Counter(map(alert_told, told)) == Counter(map(alert_due, self.books.alerts))

    def pairs(self, stored: Sequence[Any]) -> list[tuple[PlainRow, Any]]:
        by_id = {row.id: row for row in stored}
        return [(plain, by_id[plain.id]) for plain in self.books.rows]

    async def compare_views(self, connection: AsyncConnection) -> None:
        """What is held, by account and by user, and what else is worked out when asked for."""
        opened = list(self.books.accounts.values())
        views = await accounts_by_id(connection, [(self.mandate_id, str(a.id)) for a in opened])
        assert [view and view.held for view in views] == [self.books.held(a) for a in opened]
        plain_holds = list(self.books.holds.values())
        shown_holds = await holds_by_id(
            connection, [(self.mandate_id, str(hold.id)) for hold in plain_holds]
        )
        assert [
            (row.status, row.amount, row.settled_amount, row.account_id, row.user_id)
            for row in shown_holds
        ] == [
            (
                hold.status,
                hold.amount,
                hold.settlement and hold.settlement.amount,
                hold.account.id,
                hold.content.user_id,
            )
            for hold in plain_holds
        ]
        spenders = [(self.mandate_id, user) for user in USERS]
        for user, balance in zip(USERS, await balances_by_user(connection, spenders), strict=True):
            assert shown(balance) == self.balance(user)
            self.balances[user] = balance
        for user, limit in zip(USERS, await spend_limits(connection, spenders), strict=True):
            assert (
                limit and (limit.amount, limit.period, limit.spent, limit.held)
            ) == self.spend_limit(user)
            self.limits[user] = limit

    def balance(self, user: str) -> tuple[Any, ...]:
        """The figures of a balance as they are shown."""
        account = self.books.payer(user)
        held = self.books.held(account)
        available, threshold = self.books.available(account, held), self.books.threshold(account)
        if available is None:
            threshold = ZERO
        return (
            self.books.model,
            account.id,
            account.balance if account.id else ZERO,
            held,
            available,
            self.books.credit_limit(account),
            threshold,
            available is not None and available <= threshold,
        )

    def spend_limit(self, user: str) -> tuple[Any, ...] | None:
        if user not in self.books.limits:
            return None
        amount, period = self.books.limits[user]
        return amount, period, self.books.spent_by(user, period), self.books.held_by(user)


def compare_account(row: Any, history: Sequence[Any], account: PlainAccount) -> None:
    account.id = account.id or row.id
    assert row.id == account.id
    assert [
        (
            entry.transaction_type,
            entry.reference_type,
            entry.amount,
            entry.balance_after,
            entry.user_id,
            entry.idempotency_key,
            entry.aicore_provider,
            entry.aicore_model,
            entry.feature_code,
            entry.workflow_id,
        )
        for entry in history
    ] == [
        (plain.kind, plain.reference, plain.amount, plain.after, plain.user, plain.key, *plain.call)
        for plain in account.rows
    ]
    assert [entry.sequence for entry in history] == list(range(1, len(history) + 1))
    assert (row.balance, row.sequence) == (account.balance, len(history))
    assert (row.credited, row.debited) == (account.total("CREDIT"), account.total("DEBIT"))
    assert row.balance == row.credited - row.debited
    assert row.funding_base == account.funding_base
    assert (row.enabled, row.credit_limit) == (account.enabled, account.own_limit)
    assert row.alert_level == account.level
    for entry, plain in zip(history, account.rows, strict=True):
        plain.id = plain.id or entry.id
        assert entry.id == plain.id


def shown(balance: Any) -> tuple[Any, ...]:
    return (
        balance.billing_model,
        balance.account_id,
        balance.balance,
        balance.held,
        balance.available,
        balance.credit_limit,
        balance.warning_threshold,
        balance.is_warning,
    )


def alert_told(row: Any) -> tuple[Any, ...]:
    data = row.data
    figures = (Decimal(data[name]) for name in ("balance", "available", "warningThreshold"))
    return row.notice_type, data["accountId"], *figures


def alert_due(alert: Alert) -> tuple[Any, ...]:
    return alert.kind, alert.account.id, alert.balance, alert.available, alert.threshold


def test_spending_is_that_of_the_model(database_url: str) -> None:
    with asyncio.Runner() as on:

        class Here(Spending):
            runner, database = on, Database(database_url)

        try:
            for _ in range(ROUNDS):
                run_state_machine_as_test(Here, settings=SETTINGS)
        finally:
            on.run(Here.database.dispose())
