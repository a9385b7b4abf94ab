from decimal import Decimal
from typing import Any

import pytest

from app.billing.enums import BillingModel
from app.billing.errors import BillingError, Forbidden
from app.billing.models import audit_events, settings
from app.billing.settings import find_settings, list_providers, update_settings
from app.billing.usage import record_usage
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
    PROVIDERS,
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


DEFAULTS = {
    "version": 1,
    "billing_model": UNLIMITED,
    "default_user_credit": 10,
    "warning_threshold_percent": 10,
    "block_on_zero_balance": True,
    "notify_on_warning": True,
    "notify_emails": [],
    "billing_address": None,
    "credit_limit": None,
    "allowed_providers": None,
}


async def stored(database: Database) -> Any:
    return await find_settings(database, OPERATOR, MANDATE)


async def refused(database: Database, **changes: Any) -> tuple[str, tuple[str, ...]]:
    """Code and field of a change that must change nothing."""
    version = changes.pop("expected_version", None)
    before = await dump(database)
    with pytest.raises(BillingError) as error:
        await update_settings(
            database, OPERATOR, MANDATE, changes, expected_version=version, registered=PROVIDERS
        )
    assert await dump(database) == before
    return str(error.value.code), error.value.field


@pytest.mark.parametrize("viewer", [MEMBER, ADMIN, GATEWAY, STRANGER])
async def test_only_a_sysadmin_changes_settings(database: Database, viewer: Viewer) -> None:
    await add_mandate(database)
    before = await dump(database)
    with pytest.raises(BillingError if viewer is STRANGER else Forbidden) as refusal:
        await update_settings(
            database, viewer, MANDATE, {}, expected_version=None, registered=PROVIDERS
        )
    if isinstance(refusal.value, BillingError):
        assert (refusal.value.code, refusal.value.field) == ("NOT_FOUND", ("mandate_id",))
    assert await dump(database) == before


@pytest.mark.parametrize(
    ("viewer", "sees"),
    [(SYSADMIN, True), (ADMIN, True), (STRANGER, None), (MEMBER, False), (GATEWAY, False)],
)
async def test_only_admins_read_settings(
    database: Database, viewer: Viewer, sees: bool | None
) -> None:
    await add_mandate(database, model=PREPAY_USER)
    if sees is False:
        with pytest.raises(Forbidden):
            await find_settings(database, viewer, MANDATE)
        return
    assert bool(await find_settings(database, viewer, MANDATE)) == bool(sees)
    assert await find_settings(database, viewer, "nowhere") is None


async def test_a_mandate_has_no_settings_at_first(database: Database) -> None:
    await add_mandate(database)
    assert await stored(database) is None


async def test_new_settings_have_defaults(database: Database) -> None:
    await add_mandate(database)
    await change_settings(database)
    row = await stored(database)
    assert {name: getattr(row, name) for name in DEFAULTS} == DEFAULTS
    [event] = await read_rows(database, audit_events, action="settings.created")
    assert (event.before, event.after) == (None, {})


FULL: dict[str, Any] = {
    "billing_model": CREDIT_POSTPAY,
    "default_user_credit": Decimal("2.5"),
    "warning_threshold_percent": Decimal("33.333333333"),
    "block_on_zero_balance": False,
    "notify_on_warning": False,
    "notify_emails": ["a@example.com", "b@example.com"],
    "billing_address": {"company": "Acme", "country": "CH", "email": "c@example.com"},
    "credit_limit": Decimal("0.000000001"),
    "allowed_providers": ["openai", "azure"],
}
FALSY: dict[str, Any] = {
    "default_user_credit": Decimal(0),
    "warning_threshold_percent": Decimal(0),
    "block_on_zero_balance": False,
    "notify_on_warning": False,
    "notify_emails": [],
    "credit_limit": Decimal(0),
    "allowed_providers": [],
}


async def test_what_is_left_out_stays_as_it_is(database: Database) -> None:
    await add_mandate(database)
    await change_settings(database, **FULL)
    row = await stored(database)
    for name, value in FALSY.items():
        before = row._asdict()
        await change_settings(database, **{name: value})
        row = await stored(database)
        changed = {key for key, was in before.items() if getattr(row, key) != was}
        if before[name] == value:
            assert changed == set()
        else:
            assert changed == {name, "version", "updated_at"}
        assert getattr(row, name) == value


@pytest.mark.parametrize("changes", [FULL, FALSY, FULL | FALSY])
async def test_0_false_and_nothing_are_values(database: Database, changes: dict[str, Any]) -> None:
    await add_mandate(database)
    await change_settings(database, **changes)
    row = await stored(database)
    assert {name: getattr(row, name) for name in changes} == changes
    assert type(row.credit_limit) is Decimal


async def test_null_clears_what_may_be_null(database: Database) -> None:
    await add_mandate(database, **FULL)
    clear = dict.fromkeys(("billing_address", "credit_limit", "allowed_providers"))
    await change_settings(database, **clear)
    row = await stored(database)
    assert {name: getattr(row, name) for name in clear} == clear
    event = (await read_rows(database, audit_events, action="settings.updated"))[-1]
    assert event.after == clear
    assert event.before == {
        "billing_address": FULL["billing_address"],
        "credit_limit": "0.000000001",
        "allowed_providers": ["openai", "azure"],
    }


@pytest.mark.parametrize(
    "name",
    [
        "billing_model",
        "default_user_credit",
        "warning_threshold_percent",
        "block_on_zero_balance",
        "notify_on_warning",
        "notify_emails",
    ],
)
async def test_null_is_refused_elsewhere(database: Database, name: str) -> None:
    await add_mandate(database, model=PREPAY_USER)
    assert await refused(database, **{name: None}) == ("INVALID", (name,))


NANO = Decimal("0.000000001")


BAD: list[tuple[str, Any, str, tuple[str, ...]]] = [
    ("default_user_credit", -NANO, "INVALID", ()),
    ("default_user_credit", 1_000_000 + NANO, "LIMIT_EXCEEDED", ()),
    ("warning_threshold_percent", -NANO, "INVALID", ()),
    ("warning_threshold_percent", 100 + NANO, "INVALID", ()),
    ("warning_threshold_percent", Decimal("9" * 30), "INVALID", ()),
    ("credit_limit", -NANO, "INVALID", ()),
    ("credit_limit", 1_000_000_000 + NANO, "LIMIT_EXCEEDED", ()),
    ("credit_limit", Decimal("9" * 30), "LIMIT_EXCEEDED", ()),
    ("notify_emails", ["a@example.com"] * 21, "INVALID", ()),
    *[
        ("notify_emails", ["a@example.com", wrong], "INVALID", ("1",))
        for wrong in (
            "",
            "a",
            "a@",
            "@example.com",
            "a@b",
            "a b@example.com",
            "a@example.com\n",
            "a@example.com\r\nBcc: b@example.com",
            "a@example.com\0",
            "a@example.com,b@example.com",
            "A <a@example.com>",
            "x" * 100_000,
            "x" * 100_000 + "@example.com",
        )
    ],
    *[
        ("billing_address", {"country": wrong}, "INVALID", ("country",))
        for wrong in ("ch", "CHE", "XX", "", " ", "C\0")
    ],
    ("billing_address", {"email": "a"}, "INVALID", ("email",)),
    ("billing_address", {"company": "x" * 201}, "INVALID", ("company",)),
    ("billing_address", {"city": " "}, "INVALID", ("city",)),
    ("billing_address", {"street": "a\0b"}, "INVALID", ("street",)),
    ("allowed_providers", ["azure", "Azure"], "INVALID", ("1",)),
    ("allowed_providers", ["unregistered"], "INVALID", ("0",)),
    ("allowed_providers", [""], "INVALID", ("0",)),
]


async def test_bad_input_is_refused_and_named(database: Database) -> None:
    await add_mandate(database)
    for name, value, code, path in BAD:
        found = await refused(database, billing_model=PREPAY_USER, **{name: value})
        assert found == (code, (name, *path)), str(value)[:50]


async def test_values_at_their_limits_are_kept(database: Database) -> None:
    await add_mandate(database)
    widest = {
        "default_user_credit": Decimal(1_000_000),
        "warning_threshold_percent": Decimal(100),
        "credit_limit": Decimal(1_000_000_000),
        "notify_emails": [f"user{n}@example.com" for n in range(20)],
        "billing_address": {"company": "\U0001f4b6" * 200, "city": None},
        "allowed_providers": list(PROVIDERS),
    }
    await change_settings(database, **widest)
    row = await stored(database)
    assert {name: getattr(row, name) for name in widest} == widest


@pytest.mark.parametrize("mandate_id", ["nowhere", "", "a\0b", "x" * 100_000])
async def test_a_mandate_that_does_not_exist(database: Database, mandate_id: str) -> None:
    with pytest.raises(BillingError) as error:
        await change_settings(database, mandate_id, notify_on_warning=False)
    assert (error.value.code, error.value.field) == ("NOT_FOUND", ("mandate_id",))


async def test_a_change_of_another_version_is_refused(database: Database) -> None:
    await add_mandate(database)

    async def change(version: int, **changes: Any) -> int:
        row = await update_settings(
            database, OPERATOR, MANDATE, changes, expected_version=version, registered=PROVIDERS
        )
        return int(row.version)

    conflict = ("VERSION_CONFLICT", ("expected_version",))
    assert await refused(database, expected_version=1) == conflict
    assert await change(0) == 1
    assert await refused(database, expected_version=0) == conflict
    assert await change(1, credit_limit=Decimal(5)) == 2
    assert await refused(database, expected_version=1, credit_limit=Decimal(5)) == conflict
    assert await refused(database, expected_version=-1) == conflict
    assert await change(2, credit_limit=Decimal(6)) == 3


async def test_a_change_that_changes_nothing_leaves_no_trace(database: Database) -> None:
    await add_mandate(database, **FULL)
    before = await dump(database)
    await change_settings(database, **FULL)
    assert await dump(database) == before


async def test_settings_of_another_mandate_stay(database: Database) -> None:
    await add_mandate(database, **FULL)
    await add_mandate(database, OTHER_MANDATE, **FULL)
    await change_settings(database, credit_limit=Decimal(7))
    other = (await read_rows(database, settings, mandate_id=OTHER_MANDATE))[0]
    assert (other.version, other.credit_limit) == (1, NANO)


# The old model, what its account has, the new model, and whether it is refused.
MODEL_CHANGES = [
    (PREPAY_USER, 0, PREPAY_MANDATE, False),
    (PREPAY_USER, 5, PREPAY_MANDATE, True),
    (PREPAY_USER, -5, PREPAY_MANDATE, True),
    (PREPAY_USER, 5, CREDIT_POSTPAY, True),
    (PREPAY_USER, 5, UNLIMITED, True),
    (PREPAY_USER, 0, UNLIMITED, False),
    (PREPAY_MANDATE, 5, PREPAY_USER, True),
    (PREPAY_MANDATE, 5, CREDIT_POSTPAY, False),
    (PREPAY_MANDATE, -5, CREDIT_POSTPAY, False),
    (PREPAY_MANDATE, 5, UNLIMITED, True),
    (CREDIT_POSTPAY, 5, PREPAY_MANDATE, False),
    (CREDIT_POSTPAY, 0, PREPAY_MANDATE, False),
    (CREDIT_POSTPAY, -5, PREPAY_MANDATE, True),
    (CREDIT_POSTPAY, -5, PREPAY_USER, True),
    (CREDIT_POSTPAY, -5, UNLIMITED, True),
    (CREDIT_POSTPAY, 0, PREPAY_USER, False),
    (UNLIMITED, -5, PREPAY_USER, False),
    (UNLIMITED, -5, PREPAY_MANDATE, False),
    (UNLIMITED, -5, CREDIT_POSTPAY, False),
]


@pytest.mark.parametrize(("old", "balance", "new", "is_refused"), MODEL_CHANGES)
async def test_a_model_change_leaves_no_money_behind(
    database: Database, old: BillingModel, balance: int, new: BillingModel, is_refused: bool
) -> None:
    await add_mandate(database, model=old, default_user_credit=Decimal(0))
    if balance >= 0 and old != UNLIMITED:
        await credit(database, balance + 1, "alice" if old == PREPAY_USER else None)
    await record(database, usage_event(1 if balance >= 0 else -balance))
    if is_refused:
        assert await refused(database, billing_model=new, notify_on_warning=False) == (
            "BALANCE_NOT_ZERO",
            ("billing_model",),
        )
        return
    await change_settings(database, billing_model=new)
    assert (await stored(database)).billing_model == new


async def test_a_balance_of_another_mandate_does_not_matter(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await add_mandate(database, OTHER_MANDATE, PREPAY_USER)
    await credit(database, 5, "alice", mandate_id=OTHER_MANDATE)
    await change_settings(database, billing_model=PREPAY_MANDATE)
    assert (await stored(database)).billing_model == PREPAY_MANDATE


async def test_money_left_on_an_unused_account_stops_a_later_change(database: Database) -> None:
    """A record may still reach an account only while its model is in force."""
    await add_mandate(database, model=CREDIT_POSTPAY)
    await record(database, usage_event(5))
    await credit(database, 5)
    await change_settings(database, billing_model=PREPAY_USER)
    await credit(database, 1, "alice")
    assert await refused(database, billing_model=CREDIT_POSTPAY) == (
        "BALANCE_NOT_ZERO",
        ("billing_model",),
    )
    await record(database, usage_event(11))
    await change_settings(database, billing_model=CREDIT_POSTPAY)
    await record(database, usage_event(1))


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (None, ["anthropic", "azure", "google", "mistral", "openai"]),
        ([], []),
        (["openai", "azure"], ["azure", "openai"]),
    ],
)
async def test_the_providers_that_members_may_use(
    database: Database, allowed: list[str] | None, expected: list[str]
) -> None:
    await add_mandate(database, allowed_providers=allowed)
    for viewer in (MEMBER, ADMIN, GATEWAY, SYSADMIN):
        assert await list_providers(database, viewer, MANDATE, PROVIDERS) == expected
    assert await list_providers(database, STRANGER, MANDATE, PROVIDERS) is None
    assert await list_providers(database, SYSADMIN, "nowhere", PROVIDERS) is None


async def test_a_provider_that_is_no_longer_registered(database: Database) -> None:
    await add_mandate(database, allowed_providers=["azure", "openai"])
    assert await list_providers(database, MEMBER, MANDATE, ("openai",)) == ["openai"]
    events = [spend(1, aicore_provider=name) for name in ("openai", "azure")]
    results = await record_usage(database, GATEWAY, events, ("openai",))
    assert outcomes(results) == ["RECORDED", "PROVIDER_NOT_ALLOWED"]
