/** Turns the groups of a usage report into the stacked series of a chart. */
import { addAmounts, compareAmounts } from "./format";

/** As many colours as eyes tell apart; what is left goes together. */
const SERIES = 6;

interface Group {
  keys: { value?: string | null }[];
  cost: string;
  buckets: { start: string; cost: string }[];
}

export interface Series {
  name: string;
  /** A colour of the stylesheet: 1 to 6, or 0 for what was put together. */
  colour: number;
  total: string;
  costs: string[];
}

export interface ChartData {
  starts: string[];
  series: Series[];
  /** Of each bucket. */
  totals: string[];
}

/** `groups` come dearest first. */
export function chartData(groups: readonly Group[]): ChartData {
  const starts = groups[0]?.buckets.map(({ start }) => start) ?? [];
  const shown = groups.length > SERIES + 1 ? groups.slice(0, SERIES) : groups;
  // By name, so that a name keeps its colour from one period to the next.
  const series = shown.toSorted((one, other) => compareNames(nameOf(one), nameOf(other))).map((group, place) => ({
    name: nameOf(group) ?? "None named",
    colour: place < SERIES ? place + 1 : 0,
    total: group.cost,
    costs: group.buckets.map(({ cost }) => cost),
  }));
  const others = groups.slice(shown.length);
  if (others.length > 0) {
    series.push({
      name: `${String(others.length)} others`,
      colour: 0,
      total: addAmounts(...others.map(({ cost }) => cost)),
      costs: starts.map((_, at) => addAmounts(...others.map(({ buckets }) => buckets[at]?.cost ?? "0"))),
    });
  }
  const totals = starts.map((_, at) => addAmounts(...series.map(({ costs }) => costs[at] ?? "0")));
  return { starts, series, totals };
}

function nameOf(group: Group): string | null {
  return group.keys[0]?.value ?? null;
}

/** What named none comes last. */
function compareNames(one: string | null, other: string | null): number {
  if (one === null || other === null) return Number(one === null) - Number(other === null);
  return one.localeCompare(other, "en");
}

export function isEmpty({ series }: ChartData): boolean {
  return series.every(({ costs }) => costs.every((cost) => compareAmounts(cost, "0") === 0));
}

export type Unit = "DAY" | "MONTH" | "YEAR";

/** The years that the chart of years shows. */
const YEARS = 5;

export interface Range {
  /** The first day, and the day after the last. */
  from: string;
  to: string;
}

/** The month, year or years with the day in it, moved by so many of them. */
export function rangeOf(unit: Unit, day: string, steps: number): Range {
  const [year = 0, month = 0] = day.split("-").map(Number);
  if (unit === "DAY") return { from: isoDay(year, month - 1 + steps), to: isoDay(year, month + steps) };
  const years = unit === "MONTH" ? 1 : YEARS;
  const last = year + steps * years;
  return { from: isoDay(last - years + 1, 0), to: isoDay(last + 1, 0) };
}

function isoDay(year: number, month: number): string {
  return new Date(Date.UTC(year, month, 1)).toISOString().slice(0, 10);
}

export function rangeLabel(unit: Unit, { from, to }: Range, locale?: string): string {
  const first = new Date(from);
  if (unit === "DAY") {
    return new Intl.DateTimeFormat(locale, { month: "long", year: "numeric", timeZone: "UTC" }).format(first);
  }
  const [start, end] = [first.getUTCFullYear(), new Date(to).getUTCFullYear() - 1];
  return start === end ? String(start) : `${String(start)} – ${String(end)}`;
}

const LABELS = {
  DAY: [{ day: "numeric" }, { weekday: "long", day: "numeric", month: "long" }],
  MONTH: [{ month: "short" }, { month: "long", year: "numeric" }],
  YEAR: [{ year: "numeric" }, { year: "numeric" }],
} as const;

/** What stands below a bar, or the full name of what it is. */
export function bucketLabel(unit: Unit, start: string, timeZone: string, isFull: boolean, locale?: string): string {
  return new Intl.DateTimeFormat(locale, { ...LABELS[unit][isFull ? 1 : 0], timeZone }).format(new Date(start));
}
