from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.billing.errors import BillingError
from app.billing.money import (
    MAX_BALANCE,
    MAX_TRANSACTION,
    check_amount,
    format_decimal,
    format_nano,
    from_nano,
    parse_decimal,
    to_nano,
    within_limits,
)

NANO = Decimal("0.000000001")
any_nano = st.integers(-(10**39) + 1, 10**39 - 1)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("-0", 0),
        ("-0.000000000", 0),
        ("12.5", 12_500_000_000),
        ("12.50", 12_500_000_000),
        ("007", 7_000_000_000),
        ("-1", -1_000_000_000),
        ("0.000000001", 1),
        ("0.00000015", 150),
        ("9223372036.854775808", 2**63),
        ("9" * 30 + ".999999999", 10**39 - 1),
    ],
)
def test_plain_digits_are_read(text: str, nano: int) -> None:
    amount = parse_decimal(text)
    assert to_nano(amount) == nano
    assert not amount.is_signed() or nano < 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " 1",
        "1 ",
        "1\n",
        "\n1",
        "NaN",
        "sNaN",
        "Infinity",
        "-Infinity",
        "inf",
        "1e5",
        "1E5",
        "1e-9",
        "1e999999",
        "1_000",
        "1,000",
        "1'000",
        "1,5",
        "+1",
        "--1",
        "- 1",
        "\u22121",
        "1.",
        ".5",
        "-",
        ".",
        "1.2.3",
        "1.0000000001",
        "1.0000000000",
        "9" * 31,
        "0" * 31,
        "\uff11\uff12",
        "\u0663",
        "\u00b2",
        "0x10",
        "1\0",
        "true",
        "9" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plain digits"):
        parse_decimal(text)


@given(any_nano)
def test_text_of_an_amount_reads_back_as_the_same(nano: int) -> None:
    text = format_nano(nano)
    amount = parse_decimal(text)
    assert to_nano(amount) == nano
    assert from_nano(nano) == amount
    assert format_decimal(amount) == text


@given(st.text(alphabet="0123456789-.eE+_ NaInf\uff11\n", max_size=12))
def test_what_is_read_has_one_text_form(text: str) -> None:
    try:
        amount = parse_decimal(text)
    except ValueError:
        return
    written = format_decimal(amount)
    assert parse_decimal(written) == amount
    assert len(written) <= len(text)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (10_000_000_000, "10"),
        (100_000_000, "0.1"),
        (-1_500_000_000, "-1.5"),
        (10**27, "1000000000000000000"),
    ],
)
def test_an_amount_has_no_exponent_and_no_idle_zeros(nano: int, text: str) -> None:
    assert format_nano(nano) == text


@pytest.mark.parametrize("text", ["0.0000000001", "1.9999999999", "1E-10"])
def test_a_digit_too_many_is_never_rounded(text: str) -> None:
    with pytest.raises(ValueError, match="more than 9 digits"):
        to_nano(Decimal(text))


@pytest.mark.parametrize(
    ("amount", "zero", "code"),
    [
        (NANO, False, None),
        (Decimal(0), True, None),
        (MAX_TRANSACTION, False, None),
        (Decimal(0), False, "INVALID"),
        (-NANO, False, "INVALID"),
        (-NANO, True, "INVALID"),
        (MAX_TRANSACTION + NANO, False, "LIMIT_EXCEEDED"),
        (MAX_TRANSACTION + NANO, True, "LIMIT_EXCEEDED"),
    ],
)
def test_amount_of_one_transaction(amount: Decimal, zero: bool, code: str | None) -> None:
    if code is None:
        check_amount(amount, "input", "amount", zero=zero)
        return
    with pytest.raises(BillingError, match="amount must be") as refused:
        check_amount(amount, "input", "amount", zero=zero)
    assert refused.value.code == code
    assert refused.value.field == ("input", "amount")


@pytest.mark.parametrize("sign", [1, -1])
def test_a_balance_at_its_limit_fits_64_bits(sign: int) -> None:
    assert within_limits(sign * MAX_BALANCE)
    assert not within_limits(sign * (MAX_BALANCE + NANO))
    assert abs(to_nano(MAX_BALANCE)) < 2**63
