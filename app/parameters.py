"""Names and values from outside, as the dataclasses of the domain. No name is written down twice."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, fields
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin

from app.billing.checks import parse_day, parse_instant
from app.billing.errors import BadInput
from app.billing.money import parse_decimal

Parameters = Iterable[tuple[str, str]]


def split(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Names and values of texts like NAME=VALUE."""
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"{text} must be NAME=VALUE.")
        pairs.append((name, value))
    return pairs


def camel(name: str) -> str:
    """A name of the domain as the API writes it."""
    first, *others = name.rstrip("_").split("_")
    return first + "".join(map(str.capitalize, others))


def names(*kinds: type[Any]) -> list[str]:
    """The parameters that stand for the fields of dataclasses."""
    return [camel(field.name) for kind in kinds for field in fields(kind)]


def read(parameters: Parameters, *kinds: type[Any]) -> list[Any]:
    """An instance of each dataclass; BadInput for a parameter that none of them has, or no value of its."""
    given: dict[str, list[str]] = {}
    for name, value in parameters:
        given.setdefault(name, []).append(value)
    known = names(*kinds)
    for name in given:
        if name not in known:
            raise BadInput(f"The parameters are {', '.join(known)}: there is no {name}.")
    return [kind(**_values(fields(kind), given)) for kind in kinds]


def _values(known: Iterable[Field[Any]], given: dict[str, list[str]]) -> dict[str, Any]:
    values = {}
    for field in known:
        name = camel(field.name)
        if name in given:
            values[field.name] = _value(name, field.type, given[name])
        elif field.default is MISSING:
            raise BadInput(f"{name} must be given.")
    return values


def _value(name: str, kind: Any, texts: Sequence[str]) -> Any:
    parts = get_args(kind)
    if get_origin(kind) is tuple:  # tuple[X, ...]
        return tuple(_single(name, parts[0], part) for text in texts for part in text.split(","))
    if len(texts) > 1:
        raise BadInput(f"{name} must be given once.")
    return _single(name, parts[0] if NoneType in parts else kind, texts[0])


def _single(name: str, kind: type[Any], text: str) -> Any:
    try:
        if issubclass(kind, Enum):
            return _member(kind, text)
        return _FROM_TEXT[kind](text)
    except ValueError as error:
        raise BadInput(f"{name} {error}.") from None


def _member(kind: type[Enum], text: str) -> Enum:
    if text not in kind.__members__:
        raise ValueError(f"must be {' or '.join(kind.__members__)}")
    return kind[text]


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise ValueError("must be a whole number")
    return int(text)


_FROM_TEXT: dict[type[Any], Callable[[str], Any]] = {
    str: str,
    int: _whole_number,
    Decimal: parse_decimal,
    date: parse_day,
    datetime: parse_instant,
}
