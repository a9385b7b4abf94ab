"""What was measured, as one table."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median

from rich import box
from rich.table import Table

from benchmarks.contenders import OURS, RAW, STOCK

BARE = "bare"
COLUMNS = (RAW, OURS, STOCK)


@dataclass(slots=True)
class Row:
    """The figures of one piece of work, by contender, with its aims."""

    label: str
    of_raw: float | None = None
    of_stock: float | None = None
    below: float | None = None
    """Of what should be low: the aim of ours by itself."""
    unit: str = ""
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, figure: float) -> None:
        self.figures.setdefault(name, []).append(figure)

    def median(self, name: str) -> float | None:
        return median(self.figures[name]) if name in self.figures else None

    def ratio(self, name: str) -> float | None:
        ours, other = self.median(OURS), self.median(name)
        return ours / other if ours and other else None

    @property
    def aim(self) -> str:
        """What was aimed at, and whether it was met; "" for nothing that can be told."""
        asked = [
            (f"{wanted:g} of {name}", ratio >= wanted)
            for name, wanted in ((RAW, self.of_raw), (STOCK, self.of_stock))
            if wanted and (ratio := self.ratio(name))
        ]
        ours = self.median(OURS)
        if self.below and ours:
            asked.append((f"under {self.below:g} {self.unit}", ours < self.below))
        return ", ".join(f"{text}: {'met' if met else 'missed'}" for text, met in asked)


def table(rows: Sequence[Row], caption: str, *, markdown: bool) -> Table:
    """For a terminal, or to paste into a document."""
    made = Table(
        title=None if markdown else "Requests a second (medians)",
        caption=None if markdown else caption,
        box=box.MARKDOWN if markdown else box.HEAVY_HEAD,
    )
    made.add_column("")
    for name in (*COLUMNS, "ours/raw", "ours/stock"):
        made.add_column(name, justify="right")
    made.add_column("aim")
    for row in rows:
        medians = (_figure(row.median(name)) for name in COLUMNS)
        ratios = (_ratio(row.ratio(name)) for name in (RAW, STOCK))
        aim = row.aim if markdown else re.sub(r"\bmissed\b", "[red]missed[/red]", row.aim)
        made.add_row(row.label, *medians, *ratios, aim)
        if BARE in row.figures:
            bare = Row(row.label, figures={RAW: row.figures[BARE], OURS: row.figures[OURS]})
            ratio = _ratio(bare.ratio(RAW))
            label = "— raw without token or viewer"
            made.add_row(label, _figure(bare.median(RAW)), "", "", ratio, "", "")
    return made


def machine(now: datetime) -> str:
    """Where and when."""
    described = Path("/proc/cpuinfo")
    text = described.read_text() if described.exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    model = found[1] if found else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {now:%Y-%m-%d}"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
