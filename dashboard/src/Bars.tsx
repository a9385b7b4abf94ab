/** The bars themselves: in a file of its own, because the chart library loads with it. */
import { Bar, BarChart, BarStack, CartesianGrid, ResponsiveContainer, Tooltip, XAxis, YAxis } from "recharts";

import { bucketLabel, type ChartData, type Unit } from "./chartData";
import type { MandateInfo } from "./MandateScreen";
import { Money } from "./Money";

interface BarsProps {
  data: ChartData;
  unit: Unit;
  mandate: MandateInfo;
}

export default function Bars({ data, unit, mandate }: BarsProps) {
  const { starts, series } = data;
  // Heights need no exact figures; every figure that is read comes from `data`.
  const rows = starts.map((start, at) => ({
    start,
    at,
    ...Object.fromEntries(series.map(({ costs }, place) => [String(place), Number(costs[at])])),
  }));
  const tick = { fill: "var(--muted)", fontSize: 12 };
  const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 2 });
  return (
    <>
      <ul className="legend" aria-hidden="true">
        {series.map(({ name, colour, total }) => (
          <li key={name}>
            <span className={`swatch colour-${String(colour)}`} />
            {name} <Money amount={total} />
          </li>
        ))}
      </ul>
      <ResponsiveContainer width="100%" height={260}>
        <BarChart
          data={rows}
          title="Cost over time; the table below says the same"
          stackOffset="sign"
          barCategoryGap="24%"
          margin={{ top: 8, right: 0, bottom: 0, left: 0 }}
        >
          <CartesianGrid vertical={false} stroke="var(--line)" />
          <XAxis
            dataKey="start"
            tickFormatter={(start: string) => bucketLabel(unit, start, mandate.timeZone, false)}
            tick={tick}
            tickLine={false}
            axisLine={{ stroke: "var(--line-strong)" }}
            minTickGap={8}
          />
          <YAxis tickFormatter={(cost: number) => compact.format(cost)} tick={tick} tickLine={false} axisLine={false} width={44} />
          <Tooltip
            cursor={{ fill: "var(--hover)" }}
            isAnimationActive={false}
            content={({ active, payload }) => {
              const row: unknown = payload[0]?.payload;
              return active && isRow(row) ? <Hover data={data} at={row.at} unit={unit} mandate={mandate} /> : null;
            }}
          />
          <BarStack radius={[4, 4, 0, 0]}>
            {series.map(({ name, colour }, place) => (
              <Bar
                key={name}
                dataKey={String(place)}
                name={name}
                fill={`var(--chart-${String(colour)})`}
                stroke="var(--surface)"
                strokeWidth={1}
                maxBarSize={48}
                isAnimationActive={false}
              />
            ))}
          </BarStack>
        </BarChart>
      </ResponsiveContainer>
    </>
  );
}

function isRow(row: unknown): row is { at: number } {
  return typeof row === "object" && row !== null && "at" in row;
}

function Hover({ data: { starts, series, totals }, at, unit, mandate }: BarsProps & { at: number }) {
  return (
    <div className="tooltip">
      <p className="strong">{bucketLabel(unit, starts[at] ?? "", mandate.timeZone, true)}</p>
      <ul>
        {series.map(({ name, colour, costs }) => (
          <li key={name}>
            <span className={`swatch colour-${String(colour)}`} />
            {name}
            <Money amount={costs[at] ?? "0"} isAligned />
          </li>
        ))}
        <li className="strong">Total<Money amount={totals[at] ?? "0"} isAligned /></li>
      </ul>
    </div>
  );
}
