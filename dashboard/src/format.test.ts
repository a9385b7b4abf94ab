import { expect, test } from "vitest";

import {
  addAmounts,
  addDays,
  amountFault,
  amountParts,
  compareAmounts,
  dayOf,
  formatAmount,
  formatDistance,
  startOfDay,
} from "./format";

test("an amount keeps every digit, also those that a float would lose", () => {
  expect(formatAmount("123456789.123456789", "CHF", "en")).toBe("CHF\u00a0123,456,789.123456789");
  expect(formatAmount("-999999999.999999999", undefined, "en")).toBe("-999,999,999.999999999");
});

test("an amount has at least two digits behind the point, and no zeros after them", () => {
  expect(formatAmount("12.500000000", undefined, "en")).toBe("12.50");
  expect(formatAmount("0", undefined, "en")).toBe("0.00");
  expect(formatAmount("0.00000015", undefined, "en")).toBe("0.00000015");
});

test("an amount is written as the reader's locale does", () => {
  expect(formatAmount("1234.5", "EUR", "de-DE")).toBe("1.234,50\u00a0€");
  expect(formatAmount("1234567.5", undefined, "en-IN")).toBe("12,34,567.50");
});

test("digits beyond two are set apart", () => {
  expect(amountParts("12.345678", "CHF", "en")).toEqual({ coarse: "CHF\u00a012.34", fine: "5678", after: "" });
  expect(amountParts("-3", "EUR", "de-DE")).toEqual({ coarse: "-3,00", fine: "", after: "\u00a0€" });
});

test("what is no amount is refused", () => {
  for (const wrong of ["", "1e5", "NaN", "1,5", "١", "0x1f", "1.0000000001"]) {
    expect(() => formatAmount(wrong)).toThrow(RangeError);
    expect(amountFault(wrong)).toMatch(/plain digits/);
  }
  expect(amountFault(" 12.50 ")).toBeNull();
});

test("amounts add up exactly", () => {
  expect(addAmounts("0.1", "0.2")).toBe("0.3");
  expect(addAmounts("999999999.999999999", "0.000000001")).toBe("1000000000");
  expect(addAmounts("0.5", "-0.75")).toBe("-0.25");
  expect(addAmounts()).toBe("0");
});

test("amounts are compared by value", () => {
  expect(compareAmounts("9", "10.0")).toBe(-1);
  expect(compareAmounts("-1.5", "-1.50")).toBe(0);
  expect(compareAmounts("0.000000001", "-2")).toBe(1);
});

test("a day begins at its own zone's midnight, also when clocks change", () => {
  expect(startOfDay("2026-11-23", "Europe/Zurich")).toBe("2026-11-22T23:00:00.000Z");
  expect(startOfDay("2026-03-29", "Europe/Zurich")).toBe("2026-03-28T23:00:00.000Z");
  expect(startOfDay("2026-03-30", "Europe/Zurich")).toBe("2026-03-29T22:00:00.000Z");
  expect(startOfDay("2026-11-01", "America/New_York")).toBe("2026-11-01T04:00:00.000Z");
  expect(startOfDay("2026-11-02", "America/New_York")).toBe("2026-11-02T05:00:00.000Z");
  expect(startOfDay("2026-11-23", "UTC")).toBe("2026-11-23T00:00:00.000Z");
});

test("a day without a midnight begins when clocks have jumped over it", () => {
  expect(startOfDay("2026-09-06", "America/Santiago")).toBe("2026-09-06T04:00:00.000Z");
  expect(startOfDay("2026-03-08", "America/Havana")).toBe("2026-03-08T05:00:00.000Z");
  expect(startOfDay("2026-04-24", "Africa/Cairo")).toBe("2026-04-23T22:00:00.000Z");
});

test("an instant falls on the day of the zone", () => {
  expect(dayOf(new Date("2026-11-22T23:30:00Z"), "Europe/Zurich")).toBe("2026-11-23");
  expect(dayOf(new Date("2026-11-22T23:30:00Z"), "America/New_York")).toBe("2026-11-22");
  expect(addDays("2026-12-31", 1)).toBe("2027-01-01");
});

test("how far a day is away", () => {
  expect(formatDistance("2026-11-23", "2026-11-23", "en")).toBe("today");
  expect(formatDistance("2026-11-30", "2026-11-23", "en")).toBe("in 7 days");
  expect(formatDistance("2027-11-23", "2026-11-23", "en")).toBe("in 12 months");
});
