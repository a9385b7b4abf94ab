/** What was booked: filtered, endless, live while nothing is filtered. */
import { useEffect, useRef, useState } from "react";
import { useClient } from "urql";

import { saveTransactions } from "./csv";
import { Filters } from "./Filters";
import { NO_FILTER, toFilter } from "./filters";
import { graphql, readFragment } from "./gql";
import type { TransactionAddedSubscription, TransactionRowFragment } from "./gql/graphql";
import type { MandateInfo, Role } from "./MandateScreen";
import { Money, When } from "./Money";
import { Empty, Loading, More, Panel, Problem } from "./Panel";
import { useToken } from "./session";
import { Undo } from "./Undo";
import { usePages } from "./usePages";
import { useSettled } from "./useSettled";

const ROW = graphql(`
  fragment TransactionRow on Transaction {
    id
    transactionType
    referenceType
    amount
    balanceAfter
    description
    featureCode
    aicoreProvider
    aicoreModel
    occurredAt
    user { id displayName }
    reversedBy { id }
  }
`);

const TRANSACTIONS = graphql(`
  query Transactions($mandateId: ID!, $filter: TransactionFilter, $first: Int!, $after: String) {
    transactions(mandateId: $mandateId, filter: $filter, first: $first, after: $after) {
      nodes { id ...TransactionRow }
      pageInfo { hasNextPage endCursor }
    }
  }
`);

const TRANSACTION_ADDED = graphql(`
  subscription TransactionAdded($mandateId: ID!) {
    transactionAdded(mandateId: $mandateId) { id ...TransactionRow }
  }
`);

const REVERSIBLE = ["USAGE", "ADMIN", "PAYMENT"];

interface TransactionsProps {
  mandate: MandateInfo;
  userId: string | null;
  role: Role;
  /** Told the id of each transaction that is written while this screen is open. */
  added: (id: string) => void;
}

export function Transactions({ mandate, userId, role, added }: TransactionsProps) {
  const [typed, setTyped] = useState(NO_FILTER);
  const filter = toFilter(useSettled(typed), mandate.timeZone, userId);
  const pages = usePages(TRANSACTIONS, { mandateId: mandate.id, filter }, (data) => data.transactions);
  const { nodes, error, retry, add } = pages;
  const client = useClient();
  const isFiltered = filter !== null;
  const take = useRef<(node: TransactionAddedSubscription["transactionAdded"]) => void>(undefined);
  useEffect(() => {
    take.current = (node) => {
      added(node.id);
      if (!isFiltered) add(node);
    };
  }, [added, add, isFiltered]);
  useEffect(() => {
    // Not by useSubscription: of several that come between two renderings it shows the last alone.
    const subscription = client
      .subscription(TRANSACTION_ADDED, { mandateId: mandate.id })
      .subscribe(({ data }) => { if (data) take.current?.(data.transactionAdded); });
    return () => { subscription.unsubscribe(); };
  }, [client, mandate.id]);
  const [undone, setUndone] = useState<TransactionRowFragment | null>(null);
  const caption = useRef<HTMLTableCaptionElement>(null);
  const [undos, setUndos] = useState(0);
  useEffect(() => {
    // The button that had the focus goes away.
    if (undos > 0) caption.current?.focus({ preventScroll: true });
  }, [undos]);
  return (
    <Panel title="Transactions" actions={<Csv mandate={mandate} filter={filter} />}>
      <Filters mandate={mandate} typed={typed} change={setTyped} />
      {!nodes && !error && <Loading rows={8} />}
      {!nodes && error && <Problem error={error} retry={retry} />}
      {nodes?.length === 0 && (
        <Empty title="No transactions">
          {filter ? "Nothing matches. Take a filter away." : "Calls and credits will stand here."}
        </Empty>
      )}
      {nodes && nodes.length > 0 && (
        <table className="transactions">
          <caption ref={caption} tabIndex={-1} className="visually-hidden">Transactions, newest first</caption>
          <thead>
            <tr>
              <th scope="col">What</th>
              <th scope="col" className="wide">When</th>
              {role !== "MEMBER" && <th scope="col" className="wide">Who</th>}
              <th scope="col" className="number">Amount ({mandate.currency})</th>
              <th scope="col" className="number wide">Balance after</th>
              {role === "SYSADMIN" && <th scope="col"><span className="visually-hidden">Undo</span></th>}
            </tr>
          </thead>
          <tbody>
            {nodes.map((node) => (
              <Row key={node.id} row={readFragment(ROW, node)} mandate={mandate} role={role} undo={setUndone} />
            ))}
          </tbody>
        </table>
      )}
      {nodes && <More pages={pages} />}
      {undone && (
        <Undo
          mandate={mandate}
          row={undone}
          close={() => { setUndone(null); }}
          done={() => {
            setUndone(null);
            setUndos(undos + 1);
          }}
        />
      )}
    </Panel>
  );
}

interface RowProps {
  row: TransactionRowFragment;
  mandate: MandateInfo;
  role: Role;
  undo: (row: TransactionRowFragment) => void;
}

function Row({ row, mandate: { timeZone }, role, undo }: RowProps) {
  const isCredit = row.transactionType === "CREDIT";
  const origin = [row.aicoreProvider, row.aicoreModel, row.featureCode].filter(Boolean).join(" · ");
  return (
    <tr>
      <td>
        <span className="strong">{row.description}</span>
        {row.reversedBy && <span className="tag">Undone</span>}
        {row.referenceType === "REVERSAL" && <span className="tag">Undoes another</span>}
        <span className="muted small block">{origin}</span>
        <span className="muted small narrow"><When instant={row.occurredAt} timeZone={timeZone} /></span>
      </td>
      <td className="wide muted"><When instant={row.occurredAt} timeZone={timeZone} /></td>
      {role !== "MEMBER" && <td className="wide">{row.user?.displayName}</td>}
      <td className={`number ${isCredit ? "credit" : ""}`}>
        <Money amount={isCredit ? row.amount : negative(row.amount)} isAligned />
      </td>
      <td className="number wide muted"><Money amount={row.balanceAfter} isAligned /></td>
      {role === "SYSADMIN" && (
        <td className="number">
          {!row.reversedBy && REVERSIBLE.includes(row.referenceType) && (
            <button type="button" className="quiet small" onClick={() => { undo(row); }}>
              Undo<span className="visually-hidden"> {row.description}</span>
            </button>
          )}
        </td>
      )}
    </tr>
  );
}

function negative(amount: string): string {
  return /[1-9]/.test(amount) ? `-${amount}` : amount;
}

function Csv({ mandate, filter }: { mandate: MandateInfo; filter: object | null }) {
  const token = useToken();
  const [state, setState] = useState<"idle" | "busy" | "failed">("idle");
  const save = () => {
    setState("busy");
    saveTransactions(token ?? "", mandate.id, filter).then(
      () => { setState("idle"); },
      () => { setState("failed"); },
    );
  };
  return (
    <span className="csv">
      {state === "failed" && <span role="alert" className="field-error">The file could not be made. Try again.</span>}
      <button type="button" disabled={state === "busy"} onClick={save}>
        {state === "busy" ? "Preparing…" : "Download CSV"}
      </button>
    </span>
  );
}
