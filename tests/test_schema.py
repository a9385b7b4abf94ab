"""What frontends generate their clients from: the committed text, and that nothing in it is left unsaid."""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    build_schema,
    get_named_type,
    is_introspection_type,
    is_specified_scalar_type,
)

from app.server import schema_text
from schema import schema

TYPES = {
    name: kind
    for name, kind in schema._schema.type_map.items()
    if not is_introspection_type(kind) and not is_specified_scalar_type(kind)
}


def elements(types: Mapping[str, Any] = TYPES) -> Iterator[tuple[str, Any]]:
    """Every type, field, argument and enum value, by its path."""
    for name, kind in types.items():
        yield name, kind
        for member_name, member in {
            **getattr(kind, "fields", {}),
            **getattr(kind, "values", {}),
        }.items():
            yield f"{name}.{member_name}", member
            for argument_name, argument in getattr(member, "args", {}).items():
                yield f"{name}.{member_name}({argument_name})", argument


def test_the_committed_text_is_what_the_code_exports() -> None:
    committed = Path(__file__).parent.parent / "schema.graphql"
    assert committed.read_text(encoding="utf-8") == schema_text(), "run `make schema`"


def test_everything_is_described() -> None:
    described = {path: element.description or "" for path, element in elements()}
    assert len(described) > 300
    assert [path for path, text in described.items() if not text.strip()] == []
    assert [path for path, text in described.items() if not text.rstrip().endswith(".")] == []


def undated(types: Mapping[str, Any]) -> list[str]:
    """What is deprecated and does not say why, or not until when it stays."""
    found = []
    for path, element in elements(types):
        reason = getattr(element, "deprecation_reason", None)
        if reason is None:
            continue
        why, _, day = reason.rpartition("Gone after ")
        try:
            is_dated = bool(
                re.fullmatch(r"\d{4}-\d\d-\d\d\.", day) and date.fromisoformat(day[:-1])
            )
        except ValueError:
            is_dated = False
        if not (is_dated and why.strip()):
            found.append(path)
    return found


def test_what_is_deprecated_says_why_and_until_when() -> None:
    assert undated(TYPES) == []
    sample = build_schema("""
        type Query {
          good(a: Int @deprecated(reason: "Use b. Gone after 2027-06-30.")): Int
            @deprecated(reason: "Use better. Gone after 2027-06-30.")
          bare: Int @deprecated
          why: Int @deprecated(reason: "Use good.")
          day: Int @deprecated(reason: "Gone after 2027-06-30.")
          late: Int @deprecated(reason: "Use good. Gone after 2027-02-30.")
          taken(a: Int @deprecated(reason: "Use b.")): Kind
        }
        enum Kind { OLD @deprecated(reason: "Use NEW, gone after 30 June.") NEW }
    """)
    types = {name: sample.type_map[name] for name in ("Query", "Kind")}
    assert undated(types) == [
        "Query.bare",
        "Query.why",
        "Query.day",
        "Query.late",
        "Query.taken(a)",
        "Kind.OLD",
    ]


def test_left_out_is_not_null() -> None:
    assert "= null" not in schema_text()


def test_no_amount_is_a_float() -> None:
    typed = {path: element.type for path, element in elements() if hasattr(element, "type")}
    assert [path for path, kind in typed.items() if get_named_type(kind).name == "Float"] == []


@pytest.mark.parametrize("kind", ["Decimal", "DateTime", "TimeZone", "CurrencyCode"])
def test_scalars_say_what_they_are(kind: str) -> None:
    assert getattr(TYPES[kind], "specified_by_url", None)


def test_optional_root_fields_do_not_blank_the_others() -> None:
    """One refused field of a dashboard is null alone."""
    required = {
        name
        for name, field in schema._schema.query_type.fields.items()  # type: ignore[union-attr]
        if str(field.type).endswith("!")
    }
    assert required == {"viewer", "mandates", "balances", "rateLimit"}
