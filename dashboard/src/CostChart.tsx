/** What calls cost by day, month or year, stacked by provider, feature or model. */
import { lazy, Suspense, useId, useState } from "react";

import { bucketLabel, chartData, isEmpty, rangeLabel, rangeOf, type ChartData, type Unit } from "./chartData";
import { dayOf } from "./format";
import { graphql } from "./gql";
import type { MandateInfo } from "./MandateScreen";
import { Money } from "./Money";
import { Otherwise } from "./Otherwise";
import { Empty, Loading, Panel, Problem } from "./Panel";
import { useFollow } from "./useFollow";
import { useRead } from "./useRead";
import { useSettled } from "./useSettled";

const USAGE = graphql(`
  query Usage(
    $mandateId: ID!
    $from: Date!
    $to: Date!
    $granularity: Granularity!
    $groupBy: [UsageDimension!]!
    $filter: UsageFilter
  ) {
    usage(mandateId: $mandateId, from: $from, to: $to, granularity: $granularity, groupBy: $groupBy, filter: $filter) {
      totalCost
      transactionCount
      groups {
        keys { value }
        cost
        buckets { start cost }
      }
    }
  }
`);

/** The chart library is most of what this page loads: the balance does not wait for it. */
const Bars = lazy(() => import("./Bars"));

const UNITS = [["DAY", "Day"], ["MONTH", "Month"], ["YEAR", "Year"]] as const;
const STACKS = [["PROVIDER", "Provider"], ["FEATURE", "Feature"], ["MODEL", "Model"]] as const;
type Stack = (typeof STACKS)[number][0];

interface CostChartProps {
  mandate: MandateInfo;
  userId: string | null;
  /** Of the transaction written last: costs have changed. */
  latestId: string | undefined;
}

export function CostChart({ mandate, userId, latestId }: CostChartProps) {
  const [view, setView] = useState<{ unit: Unit; steps: number }>({ unit: "DAY", steps: 0 });
  const [stack, setStack] = useState<Stack>("PROVIDER");
  const { unit, steps } = useSettled(view);
  const today = dayOf(new Date(), mandate.timeZone);
  const { data, error, isLoading, retry } = useRead(USAGE, {
    mandateId: mandate.id,
    ...rangeOf(unit, today, steps),
    granularity: unit,
    groupBy: [stack],
    filter: userId === null ? null : { userId },
  });
  useFollow(latestId, retry);
  const report = data?.usage;
  const shown = report && chartData(report.groups);
  return (
    <Panel
      title="Cost"
      actions={
        <>
          <Choice legend="By" options={UNITS} value={view.unit} change={(next) => { setView({ unit: next, steps: 0 }); }} />
          <Choice legend="Stacked by" options={STACKS} value={stack} change={setStack} />
        </>
      }
    >
      <div className="chart-head">
        <p className="chart-total">
          {report && <Money amount={report.totalCost} currency={mandate.currency} />}
          {report && <span className="muted small block">{report.transactionCount.toLocaleString()} calls</span>}
        </p>
        <div className="stepper">
          <button type="button" className="quiet" aria-label="Earlier" onClick={() => { setView({ ...view, steps: view.steps - 1 }); }}>‹</button>
          <span aria-live="polite">{rangeLabel(view.unit, rangeOf(view.unit, today, view.steps))}</span>
          <button type="button" className="quiet" aria-label="Later" disabled={view.steps >= 0} onClick={() => { setView({ ...view, steps: view.steps + 1 }); }}>›</button>
        </div>
      </div>
      {!shown && !error && <Loading rows={6} />}
      {!shown && error && <Problem error={error} retry={retry} />}
      {shown && isEmpty(shown) && <Empty title="No cost in this time">Choose an earlier one.</Empty>}
      {shown && !isEmpty(shown) && (
        <div className={isLoading || view.unit !== unit || view.steps !== steps ? "dimmed" : undefined}>
          <Otherwise text="The chart could not be loaded: reload the page. Its figures are in the table.">
            <Suspense fallback={<Loading rows={6} />}>
              <Bars data={shown} unit={unit} mandate={mandate} />
            </Suspense>
          </Otherwise>
          <Table data={shown} unit={unit} mandate={mandate} />
        </div>
      )}
    </Panel>
  );
}

interface ChoiceProps<Value extends string> {
  legend: string;
  options: readonly (readonly [Value, string])[];
  value: Value;
  change: (value: Value) => void;
}

function Choice<Value extends string>({ legend, options, value, change }: ChoiceProps<Value>) {
  const name = useId();
  return (
    <fieldset className="segments">
      <legend className="visually-hidden">{legend}</legend>
      {options.map(([option, label]) => (
        <label key={option}>
          <input type="radio" name={name} checked={option === value} onChange={() => { change(option); }} />
          <span>{label}</span>
        </label>
      ))}
    </fieldset>
  );
}

interface TableProps {
  data: ChartData;
  unit: Unit;
  mandate: MandateInfo;
}

function Table({ data: { starts, series, totals }, unit, mandate }: TableProps) {
  return (
    <details className="chart-table">
      <summary>Show as a table</summary>
      {/* A region that scrolls sideways must be reachable by keyboard. */}
      {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
      <div className="scroll" role="region" aria-label="Cost as a table" tabIndex={0}>
        <table>
          <thead>
            <tr>
              <th scope="col">{unit === "DAY" ? "Day" : unit === "MONTH" ? "Month" : "Year"}</th>
              {series.map(({ name }) => <th key={name} scope="col" className="number">{name}</th>)}
              <th scope="col" className="number">Total ({mandate.currency})</th>
            </tr>
          </thead>
          <tbody>
            {starts.map((start, at) => (
              <tr key={start}>
                <th scope="row">{bucketLabel(unit, start, mandate.timeZone, true)}</th>
                {series.map(({ name, costs }) => (
                  <td key={name} className="number"><Money amount={costs[at] ?? "0"} isAligned /></td>
                ))}
                <td className="number strong"><Money amount={totals[at] ?? "0"} isAligned /></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
