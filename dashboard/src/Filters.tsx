import { addDays, dayOf } from "./format";
import { Field } from "./Field";
import { NO_FILTER, type Typed } from "./filters";
import { graphql } from "./gql";
import type { MandateInfo } from "./MandateScreen";
import { useRead } from "./useRead";

const MODELS = graphql(`
  query UsedModels($mandateId: ID!, $from: Date!, $to: Date!) {
    usage(mandateId: $mandateId, from: $from, to: $to, granularity: YEAR, groupBy: [PROVIDER, MODEL], first: 200) {
      groups { keys { value } }
    }
  }
`);

interface FiltersProps {
  mandate: MandateInfo;
  typed: Typed;
  change: (typed: Typed) => void;
}

export function Filters({ mandate, typed, change }: FiltersProps) {
  const today = dayOf(new Date(), mandate.timeZone);
  const { data } = useRead(MODELS, { mandateId: mandate.id, from: addDays(today, -730), to: addDays(today, 1) });
  const used = data?.usage?.groups.map(({ keys: [provider, model] }) => [provider?.value, model?.value]) ?? [];
  const providers = names(used.map(([provider]) => provider));
  const models = names(used.filter(([provider]) => !typed.provider || provider === typed.provider).map(([, model]) => model));
  const set = (changes: Partial<Typed>) => { change({ ...typed, ...changes }); };
  return (
    <form className="filters" role="search" aria-label="Transactions" onSubmit={(event) => { event.preventDefault(); }}>
      <Field label="Search" className="grow">
        {(attributes) => (
          <input {...attributes} type="search" maxLength={200} placeholder="Description" value={typed.search} onChange={(event) => { set({ search: event.target.value }); }} />
        )}
      </Field>
      <Field label="Type">
        {(attributes) => (
          <select {...attributes} value={typed.type} onChange={(event) => { set({ type: event.target.value as Typed["type"] }); }}>
            <option value="">All</option>
            <option value="CREDIT">Credits</option>
            <option value="DEBIT">Debits</option>
          </select>
        )}
      </Field>
      <Field label="Provider">
        {(attributes) => (
          <select {...attributes} value={typed.provider} onChange={(event) => { set({ provider: event.target.value, model: "" }); }}>
            <option value="">All</option>
            {providers.map((name) => <option key={name}>{name}</option>)}
          </select>
        )}
      </Field>
      <Field label="Model">
        {(attributes) => (
          <select {...attributes} value={typed.model} onChange={(event) => { set({ model: event.target.value }); }}>
            <option value="">All</option>
            {models.map((name) => <option key={name}>{name}</option>)}
          </select>
        )}
      </Field>
      <Field label="From">
        {(attributes) => (
          <input {...attributes} type="date" max={typed.to || undefined} value={typed.from} onChange={(event) => { set({ from: event.target.value }); }} />
        )}
      </Field>
      <Field label="To">
        {(attributes) => (
          <input {...attributes} type="date" min={typed.from || undefined} value={typed.to} onChange={(event) => { set({ to: event.target.value }); }} />
        )}
      </Field>
      {JSON.stringify(typed) !== JSON.stringify(NO_FILTER) && (
        <button type="button" className="quiet" onClick={() => { change(NO_FILTER); }}>Clear</button>
      )}
      <p className="hint full">Times are those of {mandate.timeZone}.</p>
    </form>
  );
}

function names(all: (string | null | undefined)[]): string[] {
  return [...new Set(all)].filter((name) => typeof name === "string").sort();
}
