"""What may be done to a mandate's money, in words that a test can draw: amounts and places stand for others."""

import itertools
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from app.billing.enums import BillingModel, PeriodType
from app.billing.holds import NewHold
from app.billing.usage import UsageEvent, UsageMode
from tests.plain_books import (
    NANO,
    NOW,
    ZERO,
    Join,
    Leave,
    Move,
    SetAccount,
    SetLimit,
    SetTerms,
    Settlement,
    Transfer,
)
from tests.world import CREDIT_POSTPAY, PREPAY_MANDATE, PREPAY_USER, UNLIMITED

MEMBERS = ("alice", "bob")
USERS = (*MEMBERS, "carol")
"""Carol may join."""
PAYER = "payer"
"""Stands for the owner of an account that pays."""
ALL, TOO_MUCH = Decimal(-1), Decimal(-2)
"""Stand for all there is to take, and for the least that is more."""
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Check:
    """Whether this could be held."""

    new: NewHold


@dataclass(frozen=True)
class Close:
    """Or anything else with a hold, mostly with one that may be settled."""

    place: int
    how: Settlement | str


@dataclass(frozen=True)
class Switch:
    """To another model, once nothing but holds stands in its way."""

    model: BillingModel


@dataclass(frozen=True)
class Undo:
    """The transaction in that place."""

    place: int
    key: str


@dataclass(frozen=True)
class Again:
    """What was sent before, or other content under its key."""

    place: int
    is_other: bool


@dataclass(frozen=True)
class Prove:
    """Every figure from the transactions."""


def edge(amount: Decimal, there: Decimal | None) -> Decimal:
    """What stands for an amount in words, where there is so much; None is without limit."""
    if amount not in (ALL, TOO_MUCH):
        return amount
    return max(NANO, (there or ZERO) + (NANO if amount == TOO_MUCH else ZERO))


def weighted(*strategies: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of them, so often each: `one_of` would count what is given twice but once."""
    table = [strategy for weight, strategy in strategies for _ in range(weight)]
    return st.integers(0, len(table) - 1).flatmap(table.__getitem__)


# Their parts. A list begins and ends with what is usual: both ends are drawn more often.

fine = st.one_of(
    st.sampled_from([Decimal(1), Decimal(4), NANO, Decimal("5.00"), Decimal(5), Decimal(10)]),
    st.integers(1, 12 * 10**9).map(lambda nano: nano * NANO),
)
edges = st.sampled_from([ALL, TOO_MUCH, ALL])
odd = st.sampled_from([ZERO, -NANO, 1_000_000 + NANO])
amounts = weighted((10, fine), (5, edges), (1, odd))
with_zero = weighted((5, amounts), (1, st.just(ZERO)))
takings = weighted((4, fine), (3, edges), (2, st.just(Decimal(30))), (1, odd))
people = st.sampled_from([*["alice"] * 6, "bob", "bob", "carol", "nobody", "bob", *["alice"] * 6])
keys = st.sampled_from([*[""] * 6, "one", "two", *[""] * 6])
"""Mostly one of its own."""
providers = st.sampled_from([*["azure"] * 5, "openai", None, "unregistered", *["azure"] * 5])
names = st.sampled_from([None, "small"])
days_back = st.sampled_from([0, 1, 34, 34, 36, 2, -1, 34, 34])
times = weighted((3, st.none()), (1, days_back.map(lambda days: NOW - days * DAY)))
places = weighted((2, st.integers(0, 2)), (1, st.integers(0, 9)))
models = st.sampled_from(
    [
        *[PREPAY_USER, CREDIT_POSTPAY, PREPAY_MANDATE],
        UNLIMITED,
        *[PREPAY_USER, PREPAY_MANDATE, CREDIT_POSTPAY],
    ]
)
credit_limits = st.sampled_from([Decimal(7), ZERO, None, Decimal(20)])
member_limits = st.sampled_from([Decimal(20), None, Decimal(7), ZERO, None, Decimal(30)])
terms: dict[str, st.SearchStrategy[Any]] = {
    "default_user_credit": st.sampled_from([Decimal(10), NANO, ZERO]),
    "warning_threshold_percent": st.sampled_from([ZERO, Decimal("33.333333333"), Decimal(100)]),
    "block_on_zero_balance": st.sampled_from([True, False, True]),
    "notify_on_warning": st.sampled_from([True, False, True]),
    "credit_limit": credit_limits,
    "allowed_providers": st.sampled_from(
        [None, None, ["azure"], [], ["azure", "openai"], None, None]
    ),
}

# Steps

calls = st.builds(
    UsageEvent,
    mandate_id=st.just(""),
    user_id=people,
    amount=with_zero,
    idempotency_key=keys,
    mode=st.sampled_from([UsageMode.REQUIRE_FUNDS, UsageMode.RECORD, UsageMode.REQUIRE_FUNDS]),
    workflow_id=names,
    feature_code=names,
    aicore_provider=providers,
    aicore_model=names,
    occurred_at=times,
)
batches = st.lists(calls, min_size=1, max_size=4)
new_holds = st.builds(
    NewHold,
    mandate_id=st.just(""),
    user_id=people,
    amount=amounts,
    idempotency_key=keys,
    ttl_seconds=st.sampled_from([*[900] * 9, 86_400, 0, 86_401, *[900] * 9]),
    workflow_id=names,
    feature_code=names,
    aicore_provider=providers,
)
plain_holds = st.builds(
    NewHold,
    mandate_id=st.just(""),
    user_id=st.sampled_from(MEMBERS),
    amount=weighted((3, fine), (1, edges)),
    idempotency_key=st.just(""),
    aicore_provider=st.just("azure"),
)
checks = st.builds(
    lambda new, amount: Check(replace(new, amount=amount)),
    new_holds,
    with_zero,
)
settlements = st.builds(
    Settlement, with_zero, aicore_provider=providers, aicore_model=names, occurred_at=times
)
other_ends = st.sampled_from(
    [
        *["expire", "settle again", "settle otherwise", "release"],
        *["hold again", "hold otherwise", "tidy", "expire", "release", "expire"],
    ]
)
moves = st.builds(
    Move,
    st.sampled_from(["CREDIT", "DEBIT", "CREDIT"]),
    st.sampled_from([PAYER, "alice", None, "carol", *[PAYER] * 9]),
    takings,
    keys,
)
pairs = st.sampled_from(
    [
        *itertools.permutations([*MEMBERS, None], 2),
        *[(None, "alice"), (None, "bob"), (None, "carol")],
        *[("carol", "alice"), ("bob", "bob"), ("nobody", None)],
        *itertools.permutations([*MEMBERS, None], 2),
    ]
)
transfers = st.builds(
    lambda pair, amount, key: Transfer(pair[0], pair[1], amount, key), pairs, takings, keys
)
first_terms = weighted(
    (9, st.fixed_dictionaries({"billing_model": models}, optional=terms)), (1, st.just({}))
)
next_terms = st.fixed_dictionaries({}, optional={"billing_model": models, **terms})
account_changes = st.fixed_dictionaries(
    {"credit_limit": credit_limits},
    optional={"enabled": st.sampled_from([True, True, False, True, True])},
)
steps = weighted(
    (2, st.builds(Close, places, settlements)),
    (4, st.builds(Close, places, other_ends)),
    (3, new_holds),
    (3, plain_holds),
    (3, batches),
    (1, checks),
    (3, moves),
    (3, transfers),
    (3, st.builds(Undo, places, keys)),
    (2, st.builds(Again, places, st.sampled_from([False, True, False]))),
    (1, st.builds(Prove)),
    (3, st.builds(SetTerms, next_terms)),
    (1, st.builds(Switch, models)),
    (2, st.builds(SetAccount, places, account_changes)),
    (2, st.builds(SetLimit, people, member_limits, st.sampled_from(PeriodType))),
    (2, st.builds(Join, st.sampled_from(["alice", "carol", "nobody", "bob", "alice"]))),
    (1, st.builds(Leave, st.sampled_from(["bob", "alice", "nobody", "carol", "bob"]))),
)
