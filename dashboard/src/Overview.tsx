/** What a member sees, and an admin of the whole mandate: balance, holds, costs and transactions. */
import { useState } from "react";
import { useSubscription } from "urql";

import { Balance } from "./Balance";
import { CostChart } from "./CostChart";
import { graphql } from "./gql";
import type { TransactionAddedSubscription } from "./gql/graphql";
import { Holds } from "./Holds";
import type { MandateInfo, Role } from "./MandateScreen";
import { href } from "./route";
import { Transactions } from "./Transactions";

const TRANSACTION_ADDED = graphql(`
  subscription TransactionAdded($mandateId: ID!) {
    transactionAdded(mandateId: $mandateId) { id ...TransactionRow }
  }
`);

export type Added = TransactionAddedSubscription["transactionAdded"];
const KEPT = 100;

interface OverviewProps {
  mandate: MandateInfo;
  /** Of whom alone; for members the API shows nobody else's anyway. */
  userId: string | null;
  role: Role;
}

export function Overview({ mandate, userId, role }: OverviewProps) {
  const isAdmin = role !== "MEMBER";
  const [{ data: added = [] }] = useSubscription(
    { query: TRANSACTION_ADDED, variables: { mandateId: mandate.id } },
    // Several may come between two renderings: none of them is lost.
    (before: Added[] | undefined, { transactionAdded }) => [transactionAdded, ...(before ?? [])].slice(0, KEPT),
  );
  const latestId = added[0]?.id;
  const [held, setHeld] = useState("");
  return (
    <>
      {userId !== null && (
        <p className="notice">
          <span>Only <strong>{userId}</strong> is shown.</span> <a href={href(mandate.id)}>Show the whole mandate</a>
        </p>
      )}
      <div className="grid">
        <Balance mandate={mandate} userId={userId} isAdmin={isAdmin} latestId={latestId} heldChanged={setHeld} />
        <Holds mandate={mandate} userId={userId} isAdmin={isAdmin} moved={`${held} ${latestId ?? ""}`} />
      </div>
      <CostChart mandate={mandate} userId={userId} latestId={latestId} />
      <Transactions mandate={mandate} userId={userId} role={role} added={added} />
    </>
  );
}
