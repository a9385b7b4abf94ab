import { amountParts, formatInstant } from "./format";

interface MoneyProps {
  amount: string;
  /** Left out where a column's heading names it. */
  currency?: string;
  /** In columns the points stand below each other. */
  isAligned?: boolean;
}

export function Money({ amount, currency, isAligned = false }: MoneyProps) {
  const { coarse, fine, after } = amountParts(amount, currency);
  return (
    <span className={isAligned ? "money aligned" : "money"}>
      {coarse}
      {(fine || isAligned) && <span className="fine">{fine}</span>}
      {after}
    </span>
  );
}

export function When({ instant, timeZone }: { instant: string; timeZone: string }) {
  return <time dateTime={instant}>{formatInstant(instant, timeZone)}</time>;
}
