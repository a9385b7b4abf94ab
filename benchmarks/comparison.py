"""Whether the contenders do the same work, seen from their answers before anything is measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from benchmarks.client import Unsound
from benchmarks.contenders import OURS, RAW, Contender
from benchmarks.work import Work


async def compare(work: Work, contenders: Sequence[Contender]) -> None:
    """Unsound unless all answer alike, hand-written routes and our server with the same bytes.

    Of a write the answers have the same fields, and values of the same types.
    """
    answers = {
        contender.name: (await contender.answer(work, most=1)).bodies for contender in contenders
    }
    [(first, expected), *others] = answers.items()
    for name, bodies in others:
        for ours, theirs in zip(expected, bodies, strict=True):
            if not _alike(ours, theirs, work, exact=(first, name) == (RAW, OURS)):
                told = (f"{who}: {body[:1000]!r}" for who, body in ((first, ours), (name, theirs)))
                raise Unsound(f"{work.label} is answered differently.\n" + "\n".join(told))
    if work.has_bare and first == RAW:
        bare = await contenders[0].answer(work, most=1, bare=True)
        if bare.bodies != expected:
            raise Unsound(f"{work.label} is answered differently without a token")


def _alike(ours: bytes, theirs: bytes, work: Work, *, exact: bool) -> bool:
    first, second = orjson.loads(ours)["data"], orjson.loads(theirs)["data"]
    if work.expected is not None:
        return bool(_shape(first) == _shape(second))
    # Behind the data, our server tells what it cost.
    return bool(first == second) and (not exact or theirs.startswith(ours[:-1]))


def _shape(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(name, _shape(part)) for name, part in value.items()]
    if isinstance(value, list):
        return [_shape(part) for part in value]
    return type(value)
