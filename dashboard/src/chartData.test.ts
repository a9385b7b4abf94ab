import { expect, test } from "vitest";

import { bucketLabel, chartData, isEmpty, rangeLabel, rangeOf } from "./chartData";

function group(value: string | null, ...costs: [string, string]) {
  const starts = ["2026-10-31T23:00:00Z", "2026-11-01T23:00:00Z"];
  return {
    keys: [{ value }],
    cost: "0",
    buckets: costs.map((cost, at) => ({ start: starts[at] ?? "", cost })),
  };
}

test("a name keeps its place and so its colour, whatever it cost", () => {
  const names = (...groups: ReturnType<typeof group>[]) => chartData(groups).series.map(({ name }) => name);
  const [none, one, other] = [group(null, "9", "9"), group("mistral", "2", "2"), group("azure", "1", "1")];
  expect(names(none, one, other)).toEqual(["azure", "mistral", "None named"]);
  expect(names(other, one)).toEqual(["azure", "mistral"]);
});

test("each group is a series, and the totals of the buckets are exact", () => {
  const data = chartData([group("openai", "0.1", "1"), group(null, "0.2", "-2.000000001")]);
  expect(data.series.map(({ name, colour }) => [name, colour])).toEqual([["openai", 1], ["None named", 2]]);
  expect(data.totals).toEqual(["0.3", "-1.000000001"]);
});

test("what is beyond the colours goes together, and nothing is lost", () => {
  const data = chartData(Array.from({ length: 9 }, (_, at) => group(`p${String(at)}`, "0.1", "1")));
  expect(data.series).toHaveLength(7);
  expect(data.series.at(-1)).toMatchObject({ name: "3 others", colour: 0, costs: ["0.3", "3"] });
  expect(data.totals).toEqual(["0.9", "9"]);
});

test("a seventh alone is shown by its name", () => {
  const data = chartData(Array.from({ length: 7 }, (_, at) => group(`p${String(at)}`, "0.1", "1")));
  expect(data.series.at(-1)).toMatchObject({ name: "p6", colour: 0 });
});

test("a report without cost is empty, one whose costs cancel out is not", () => {
  expect(isEmpty(chartData([]))).toBe(true);
  expect(isEmpty(chartData([group("openai", "0.000000000", "0")]))).toBe(true);
  expect(isEmpty(chartData([group("openai", "1", "0"), group("mistral", "-1", "0")]))).toBe(false);
});

test("days are those of a month, months those of a year, years the last five", () => {
  expect(rangeOf("DAY", "2026-11-23", 0)).toEqual({ from: "2026-11-01", to: "2026-12-01" });
  expect(rangeOf("DAY", "2026-01-31", -1)).toEqual({ from: "2025-12-01", to: "2026-01-01" });
  expect(rangeOf("MONTH", "2026-11-23", -1)).toEqual({ from: "2025-01-01", to: "2026-01-01" });
  expect(rangeOf("YEAR", "2026-11-23", 0)).toEqual({ from: "2022-01-01", to: "2027-01-01" });
  expect(rangeOf("YEAR", "2026-11-23", -1)).toEqual({ from: "2017-01-01", to: "2022-01-01" });
});

test("periods have names", () => {
  expect(rangeLabel("DAY", { from: "2026-11-01", to: "2026-12-01" }, "en")).toBe("November 2026");
  expect(rangeLabel("MONTH", { from: "2026-01-01", to: "2027-01-01" }, "en")).toBe("2026");
  expect(rangeLabel("YEAR", { from: "2022-01-01", to: "2027-01-01" }, "en")).toBe("2022 – 2026");
  expect(bucketLabel("DAY", "2026-10-31T23:00:00Z", "Europe/Zurich", false, "en")).toBe("1");
  expect(bucketLabel("MONTH", "2026-10-31T23:00:00Z", "Europe/Zurich", true, "en")).toBe("November 2026");
});
