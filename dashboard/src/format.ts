/** Amounts and dates for the reader's locale. An amount stays the decimal string that it came as. */

const NANO = 9;
const DIGITS = { minimumFractionDigits: 2, maximumFractionDigits: NANO } as const;
const PLAIN = /^-?\d{1,30}(\.\d{1,9})?$/;

/** What Intl takes for an exact number. */
type Numeric = Intl.StringNumericLiteral;

function numeric(amount: string): Numeric {
  if (!PLAIN.test(amount)) throw new RangeError(`${amount} is no amount`);
  return amount as Numeric;
}

export function formatAmount(amount: string, currency?: string, locale?: string): string {
  const style = currency === undefined ? {} : ({ style: "currency", currency } as const);
  return new Intl.NumberFormat(locale, { ...style, ...DIGITS }).format(numeric(amount));
}

export interface AmountParts {
  /** Sign, digits before the point, the point and two digits. */
  coarse: string;
  /** The digits beyond: prices of single calls need them, eyes seldom do. */
  fine: string;
  /** A currency sign or minus that the locale writes behind the number. */
  after: string;
}

export function amountParts(amount: string, currency?: string, locale?: string): AmountParts {
  const style = currency === undefined ? {} : ({ style: "currency", currency } as const);
  const format = new Intl.NumberFormat(locale, { ...style, ...DIGITS });
  const result = { coarse: "", fine: "", after: "" };
  let isBehind = false;
  for (const { type, value } of format.formatToParts(numeric(amount))) {
    if (type === "fraction") {
      result.coarse += value.slice(0, 2);
      result.fine = value.slice(2);
      isBehind = true;
    } else if (isBehind) result.after += value;
    else result.coarse += value;
  }
  return result;
}

function toNano(amount: string): bigint {
  const [whole = "", fraction = ""] = numeric(amount).replace("-", "").split(".");
  const nano = BigInt(whole + fraction.padEnd(NANO, "0"));
  return amount.startsWith("-") ? -nano : nano;
}

export function addAmounts(...amounts: string[]): string {
  const sum = amounts.reduce((total, amount) => total + toNano(amount), 0n);
  const digits = (sum < 0n ? -sum : sum).toString().padStart(NANO + 1, "0");
  const fraction = digits.slice(-NANO).replace(/0+$/, "");
  return `${sum < 0n ? "-" : ""}${digits.slice(0, -NANO)}${fraction && "."}${fraction}`;
}

export function compareAmounts(one: string, other: string): number {
  const [a, b] = [toNano(one), toNano(other)];
  return a < b ? -1 : a > b ? 1 : 0;
}

/** What is wrong with an amount as it was typed, or null. */
export function amountFault(typed: string): string | null {
  return PLAIN.test(typed.trim())
    ? null
    : "Write it in plain digits with a point, such as 12.50, with at most nine digits behind it.";
}

export function formatInstant(instant: string, timeZone: string, locale?: string): string {
  const options = { dateStyle: "medium", timeStyle: "short", timeZone } as const;
  return new Intl.DateTimeFormat(locale, options).format(new Date(instant));
}

/** A calendar day such as 2026-11-23, whose zone does not matter. */
export function formatDay(day: string, locale?: string): string {
  return new Intl.DateTimeFormat(locale, { dateStyle: "long", timeZone: "UTC" }).format(new Date(day));
}

/** The calendar day of an instant in a zone, as 2026-11-23. */
export function dayOf(instant: Date, timeZone: string): string {
  return new Intl.DateTimeFormat("en-CA", { timeZone, year: "numeric", month: "2-digit", day: "2-digit" }).format(instant);
}

export function addDays(day: string, days: number): string {
  const date = new Date(`${day}T00:00:00Z`);
  date.setUTCDate(date.getUTCDate() + days);
  return date.toISOString().slice(0, 10);
}

/** "in 3 weeks", "tomorrow": how far a day is from today. */
export function formatDistance(day: string, today: string, locale?: string): string {
  const days = Math.round((Date.parse(day) - Date.parse(today)) / 86_400_000);
  const format = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });
  if (Math.abs(days) < 14) return format.format(days, "day");
  if (Math.abs(days) < 60) return format.format(Math.round(days / 7), "week");
  if (Math.abs(days) < 730) return format.format(Math.round(days / 30.4), "month");
  return format.format(Math.round(days / 365.25), "year");
}

/** The first instant of a day in a zone, for the API's filters. */
export function startOfDay(day: string, timeZone: string): string {
  const midnight = Date.parse(`${day}T00:00:00Z`);
  // Twice, because the first guess may lie on the other side of a change of clocks.
  const first = new Date(midnight - offset(midnight, timeZone));
  const second = new Date(midnight - offset(first.getTime(), timeZone));
  // Where clocks jump over midnight itself, the second lies in the day before.
  return (dayOf(second, timeZone) < day ? first : second).toISOString();
}

function offset(instant: number, timeZone: string): number {
  const clock = new Intl.DateTimeFormat("en-US", {
    timeZone,
    hourCycle: "h23",
    year: "numeric",
    month: "numeric",
    day: "numeric",
    hour: "numeric",
    minute: "numeric",
    second: "numeric",
  });
  const parts = clock.formatToParts(instant);
  const read = (type: Intl.DateTimeFormatPartTypes) => Number(parts.find((part) => part.type === type)?.value);
  const shown = Date.UTC(read("year"), read("month") - 1, read("day"), read("hour"), read("minute"), read("second"));
  return shown - Math.floor(instant / 1000) * 1000;
}

/** PREPAY_USER becomes "Prepay user". */
export function sentence(name: string): string {
  const words = name.toLowerCase().replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
