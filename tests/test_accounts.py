from decimal import Decimal
from typing import Any

import pytest

from app.billing.accounts import (
    accounts_by_id,
    find_balance,
    list_accounts,
    list_balances,
    update_account,
)
from app.billing.directory import remove_membership
from app.billing.enums import BillingModel, MembershipRole
from app.billing.errors import BadInput, BillingError, Forbidden
from app.billing.models import accounts, audit_events
from app.billing.paging import PageArguments
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from tests.world import (
    ADMIN,
    CREDIT_POSTPAY,
    GATEWAY,
    MANDATE,
    MEMBER,
    OTHER_MANDATE,
    PREPAY_MANDATE,
    PREPAY_USER,
    STRANGER,
    SYSADMIN,
    UNLIMITED,
    add_mandate,
    change_settings,
    credit,
    dump,
    outcomes,
    read_rows,
    record,
    spend,
    usage_event,
)

pytestmark = pytest.mark.anyio


async def account_id(database: Database, **where: Any) -> str:
    [row] = await read_rows(database, accounts, **({"mandate_id": MANDATE} | where))
    return str(row.id)


async def shown(database: Database, user_id: str | None = "alice") -> Any:
    return await find_balance(database, SYSADMIN, MANDATE, user_id)


def limit(amount: str | int | None) -> dict[str, Any]:
    return {"credit_limit": None if amount is None else Decimal(amount)}


def percent(value: str | int) -> dict[str, Any]:
    return {"warning_threshold_percent": Decimal(value)}


# Model, settings, credits and usage in order, then balance, available, limit, threshold, warning.
FIGURES: list[tuple[BillingModel | None, dict[str, Any], list[str | int], list[Any]]] = [
    (PREPAY_USER, {}, [], [0, 10, None, 1, False]),
    (PREPAY_USER, {"default_user_credit": Decimal(0)}, [], [0, 0, None, 0, True]),
    (PREPAY_USER, {}, [-9], [1, 1, None, 1, True]),
    (PREPAY_USER, {}, ["-8.999999999"], ["1.000000001", "1.000000001", None, 1, False]),
    (PREPAY_USER, {}, [5], [15, 15, None, "1.5", False]),
    (PREPAY_USER, {}, [5, -14], [1, 1, None, "1.5", True]),
    (PREPAY_USER, {}, [-20], [-10, -10, None, 1, True]),
    (PREPAY_USER, percent(0), [-10], [0, 0, None, 0, True]),
    (PREPAY_USER, percent(100), [-1], [9, 9, None, 10, True]),
    (PREPAY_USER, percent("33.333333333"), [], [0, 10, None, "3.333333333", False]),
    (PREPAY_USER, percent("0.000000001"), ["0.5"], [10.5, 10.5, None, 0, False]),
    (PREPAY_USER, limit(5), [], [0, 10, None, 1, False]),
    (PREPAY_USER, {"block_on_zero_balance": False}, [-11], [-1, -1, None, 1, True]),
    (PREPAY_MANDATE, {}, [], [0, 0, None, 0, True]),
    (PREPAY_MANDATE, {}, [20], [20, 20, None, 2, False]),
    (PREPAY_MANDATE, {}, [-30, 20], [-10, -10, None, 0, True]),  # never below 0
    (PREPAY_MANDATE, {}, [20, -18, 1], [3, 3, None, "0.3", False]),  # the latest credit counts
    (CREDIT_POSTPAY, {}, [], [0, None, None, 0, False]),
    (CREDIT_POSTPAY, {}, [-5], [-5, None, None, 0, False]),
    (CREDIT_POSTPAY, limit(20), [], [0, 20, 20, 2, False]),
    (CREDIT_POSTPAY, limit(20), [-18], [-18, 2, 20, 2, True]),
    (CREDIT_POSTPAY, limit(20), [5], [5, 25, 20, 2, False]),
    (CREDIT_POSTPAY, limit(20), [-21], [-21, -1, 20, 2, True]),
    (CREDIT_POSTPAY, limit(0), [], [0, 0, 0, 0, True]),
    (CREDIT_POSTPAY, limit(0), [1], [1, 1, 0, 0, False]),
    (UNLIMITED, {}, [], [0, None, None, 0, False]),
    (UNLIMITED, limit(0), [-5], [-5, None, None, 0, False]),
    (None, {}, [], [0, None, None, 0, False]),
    (None, {}, [-5], [-5, None, None, 0, False]),
]


@pytest.mark.parametrize(("model", "settings", "moves", "expected"), FIGURES)
async def test_what_is_shown_of_a_balance(
    database: Database,
    model: BillingModel | None,
    settings: dict[str, Any],
    moves: list[str | int],
    expected: list[Any],
) -> None:
    """A balance, its account and the account in a list show the same figures."""
    await add_mandate(database, model=model, **settings)
    for move in map(Decimal, moves):
        if move > 0:
            await credit(database, str(move), "alice" if model == PREPAY_USER else None)
        else:
            await record(database, usage_event(str(-move)))
    balance = await shown(database)
    expected = [
        value if value is None or isinstance(value, bool) else Decimal(value) for value in expected
    ]
    figures = [balance.balance, balance.available, balance.credit_limit]
    assert [*figures, balance.warning_threshold, balance.is_warning] == expected
    assert (balance.user_id, balance.held) == ("alice" if model == PREPAY_USER else None, 0)
    assert balance.billing_model == (model or UNLIMITED)
    if not moves:
        assert balance.account_id is None
        return
    page = await list_accounts(
        database, ADMIN, MANDATE, user_id=None, enabled=None, page=PageArguments()
    )
    assert page is not None
    [account] = page.nodes
    assert account.id == balance.account_id
    for name in ("balance", "held", "available", "warning_threshold", "is_warning", "currency"):
        assert getattr(account, name) == getattr(balance, name)
    assert account.credit_limit is None  # its own
    # What is shown as available is what can be spent, to the last digit.
    if balance.available is not None and balance.available > 0 and model != CREDIT_POSTPAY:
        whole, more = str(balance.available), str(balance.available + Decimal("1E-9"))
        results = await record(database, spend(more), spend(whole))
        assert outcomes(results) == ["INSUFFICIENT_FUNDS", "RECORDED"]


@pytest.mark.parametrize("model", list(BillingModel))
async def test_an_accounts_own_limit_goes_before_the_settings(
    database: Database, model: BillingModel
) -> None:
    await add_mandate(database, model=model, **limit(20))
    await record(database, usage_event(1))
    account = await account_id(database)
    for own, in_force in ((0, 0), (5, 5), (None, 20)):
        await update_account(database, OPERATOR, MANDATE, account, limit(own))
        balance = await shown(database)
        postpaid = model == CREDIT_POSTPAY
        assert balance.credit_limit == (in_force if postpaid else None)
        if postpaid:
            assert balance.available == in_force - 1
            spent = await record(database, spend(in_force), spend(max(0, in_force - 1)))
            assert outcomes(spent)[0] == "CREDIT_LIMIT_EXCEEDED"
            await credit(database, 1_000_000)
            await record(database, usage_event(1_000_000 - max(0, in_force - 1)))


async def test_a_changed_percentage_counts_at_once(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await record(database, usage_event(8))
    assert (await shown(database)).is_warning is False
    await change_settings(database, warning_threshold_percent=Decimal(20))
    balance = await shown(database)
    assert (balance.warning_threshold, balance.is_warning) == (2, True)


async def test_balances_of_one_viewer(database: Database) -> None:
    await add_mandate(database, "b", PREPAY_USER)
    await add_mandate(database, "a", PREPAY_MANDATE)
    await add_mandate(database, "c")
    await add_mandate(database, "foreign", users=["bob"])
    viewer = Viewer("alice", roles=dict.fromkeys("cab", MembershipRole.MEMBER))
    found = await list_balances(database, viewer)
    assert [(each.mandate_id, each.user_id) for each in found] == [
        ("a", None),
        ("b", "alice"),
        ("c", None),
    ]
    for each in found:
        same = await find_balance(database, viewer, each.mandate_id, None)
        assert same is not None
        assert same.available == each.available
    assert await list_balances(database, Viewer("nobody")) == []


async def test_whose_balance_may_be_asked_for(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob", "ada", "left"])
    await record(database, usage_event(1, user_id="bob"), usage_event(2, user_id="left"))
    await remove_membership(database, OPERATOR, MANDATE, "left")

    async def ask(viewer: Viewer, user_id: str | None, mandate_id: str = MANDATE) -> Any:
        found = await find_balance(database, viewer, mandate_id, user_id)
        return found and (found.user_id, found.balance)

    assert await ask(MEMBER, None) == await ask(MEMBER, "alice") == ("alice", 0)
    for name in ("bob", "nobody", "a\0b", ""):
        with pytest.raises(Forbidden, match="another user"):
            await ask(MEMBER, name)
    for viewer in (ADMIN, GATEWAY, SYSADMIN):
        assert await ask(viewer, "bob") == ("bob", 9)
        assert await ask(viewer, "left") == ("left", 8)
        for name in ("nobody", "", "a\0b", "x" * 100_000):
            assert await ask(viewer, name) is None
    assert await ask(ADMIN, None) == ("ada", 0)
    for viewer in (GATEWAY, SYSADMIN):
        with pytest.raises(BadInput, match="userId is required"):
            await ask(viewer, None)
    for viewer in (STRANGER, MEMBER):
        for mandate_id in ("nowhere", "", "a\0b"):
            assert await ask(viewer, "bob", mandate_id) is None
    assert await ask(STRANGER, "bob") is None
    assert await ask(STRANGER, None) is None


async def test_a_pool_is_one_balance_for_all(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE, users=["alice", "bob", "ada"])
    await credit(database, 5)
    for viewer in (MEMBER, ADMIN, GATEWAY, SYSADMIN):
        found = await find_balance(database, viewer, MANDATE, None)
        assert found is not None
        assert [found.user_id, found.balance, found.mandate_id] == [None, Decimal(5), MANDATE]


async def test_accounts_in_pages(database: Database) -> None:
    users = [f"user-{n}" for n in range(7)]
    await add_mandate(database, model=PREPAY_USER, users=users)
    await add_mandate(database, OTHER_MANDATE, PREPAY_USER, users=users[:1])
    await record(
        database,
        *(usage_event(1, user_id=user_id) for user_id in users),
        usage_event(1, user_id=users[0], mandate_id=OTHER_MANDATE),
    )
    newest_first = sorted(
        (row.id for row in await read_rows(database, accounts, mandate_id=MANDATE)), reverse=True
    )

    async def fetch(**arguments: Any) -> Any:
        page = PageArguments(**arguments)
        return await list_accounts(database, ADMIN, MANDATE, user_id=None, enabled=None, page=page)

    everything = await fetch()
    assert [node.id for node in everything.nodes] == newest_first
    assert (everything.has_next_page, everything.has_previous_page) == (False, False)
    assert (await everything.totals()).balance == 63
    assert await everything.count() == 7
    seen: list[str] = []
    after = None
    while True:
        page = await fetch(first=3, after=after)
        seen += [node.id for node in page.nodes]
        assert page.has_previous_page == (after is not None)
        assert (await page.totals()).balance == 63
        if not page.has_next_page:
            break
        after = page.cursor(page.nodes[-1])
    assert seen == newest_first
    last = await fetch(last=3)
    assert [node.id for node in last.nodes] == newest_first[-3:]
    before = await fetch(last=3, before=last.cursor(last.nodes[0]))
    assert [node.id for node in before.nodes] == newest_first[1:4]
    assert (before.has_previous_page, before.has_next_page) == (True, True)


async def test_accounts_by_user_and_by_state(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await record(database, usage_event(1), usage_event(1, user_id="bob"))
    bob = await account_id(database, user_id="bob")
    await update_account(database, OPERATOR, MANDATE, bob, {"enabled": False})

    async def users(user_id: str | None, enabled: bool | None) -> set[str | None]:
        page = await list_accounts(
            database, ADMIN, MANDATE, user_id=user_id, enabled=enabled, page=PageArguments()
        )
        assert page is not None
        assert await page.count() == len(page.nodes)
        return {node.user_id for node in page.nodes}

    assert await users(None, None) == {"alice", "bob"}
    assert await users("bob", None) == await users(None, False) == {"bob"}
    assert await users(None, True) == {"alice"}
    assert await users("bob", True) == set()
    for name in ("nobody", "", "a\0b", "x" * 100_000):
        assert await users(name, None) == set()


@pytest.mark.parametrize("viewer", [MEMBER, GATEWAY, STRANGER])
async def test_only_admins_list_accounts(database: Database, viewer: Viewer) -> None:
    await add_mandate(database)
    ask = list_accounts(database, viewer, MANDATE, user_id=None, enabled=None, page=PageArguments())
    if viewer is STRANGER:
        assert await ask is None
        return
    with pytest.raises(Forbidden):
        await ask


async def test_accounts_by_id_come_in_the_order_asked(database: Database) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE)
    await record(database, usage_event(1), usage_event(2, mandate_id=OTHER_MANDATE))
    ours = await account_id(database)
    theirs = await account_id(database, mandate_id=OTHER_MANDATE)
    keys = [(OTHER_MANDATE, theirs), (MANDATE, theirs), (MANDATE, ours), (MANDATE, "x")]
    async with database.read() as connection:
        found = await accounts_by_id(connection, keys)
    assert [account and account.balance for account in found] == [-2, None, -1, None]


# Changes


async def test_a_sysadmin_changes_an_account(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await record(database, usage_event(1))
    account = await account_id(database)
    await update_account(
        database, SYSADMIN, MANDATE, account, {"enabled": False} | limit("0.000000001")
    )
    await update_account(database, SYSADMIN, MANDATE, account, limit(None))
    before = await dump(database)
    for nothing in ({}, {"enabled": False}, limit(None)):
        await update_account(database, SYSADMIN, MANDATE, account, nothing)
    assert await dump(database) == before
    [row] = await read_rows(database, accounts)
    assert (row.enabled, row.credit_limit, row.balance) == (False, None, 9)
    first, second = await read_rows(database, audit_events, action="account.updated")
    assert (first.actor_id, first.subject) == ("root", f"account:{account}")
    assert first.before == {"enabled": True, "credit_limit": None}
    assert first.after == {"enabled": False, "credit_limit": "0.000000001"}
    assert (second.before, second.after) == (
        {"credit_limit": "0.000000001"},
        {"credit_limit": None},
    )


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"enabled": None}, "INVALID", "enabled"),
        (limit("-0.000000001"), "INVALID", "credit_limit"),
        (limit("1000000000.000000001"), "LIMIT_EXCEEDED", "credit_limit"),
        (limit("9" * 30), "LIMIT_EXCEEDED", "credit_limit"),
    ],
)
async def test_bad_input_is_refused_and_named(
    database: Database, changes: dict[str, Any], code: str, field: str
) -> None:
    await add_mandate(database)
    await record(database, usage_event(1))
    account, before = await account_id(database), await dump(database)
    with pytest.raises(BillingError) as error:
        await update_account(database, OPERATOR, MANDATE, account, {"enabled": False} | changes)
    assert (error.value.code, error.value.field) == (code, (field,))
    assert await dump(database) == before


async def test_an_account_that_is_not_there_or_not_theirs(database: Database) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE)
    await record(database, usage_event(1), usage_event(1, mandate_id=OTHER_MANDATE))
    ours = await account_id(database)
    theirs = await account_id(database, mandate_id=OTHER_MANDATE)
    before = await dump(database)
    attempts = [
        (SYSADMIN, MANDATE, theirs, "account_id"),
        (SYSADMIN, MANDATE, "", "account_id"),
        (SYSADMIN, MANDATE, "a\0b", "account_id"),
        (SYSADMIN, MANDATE, "x" * 100_000, "account_id"),
        (SYSADMIN, "nowhere", ours, "mandate_id"),
        (SYSADMIN, "a\0b", ours, "mandate_id"),
        (STRANGER, MANDATE, ours, "mandate_id"),
        (STRANGER, "nowhere", ours, "mandate_id"),
    ]
    for viewer, mandate_id, account, field in attempts:
        with pytest.raises(BillingError) as error:
            await update_account(database, viewer, mandate_id, account, {"enabled": False})
        assert (error.value.code, error.value.field) == ("NOT_FOUND", (field,))
    for viewer in (MEMBER, ADMIN, GATEWAY):
        with pytest.raises(Forbidden):
            await update_account(database, viewer, MANDATE, ours, {"enabled": False})
    assert await dump(database) == before
