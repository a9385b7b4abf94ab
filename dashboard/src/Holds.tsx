/** What is set aside for calls that run now. */
import { graphql } from "./gql";
import type { MandateInfo } from "./MandateScreen";
import { Money, When } from "./Money";
import { Empty, Loading, More, Panel, Problem } from "./Panel";
import { useFollow } from "./useFollow";
import { usePages } from "./usePages";

const HOLDS = graphql(`
  query OpenHolds($mandateId: ID!, $userId: ID, $first: Int!, $after: String) {
    holds(mandateId: $mandateId, userId: $userId, status: OPEN, first: $first, after: $after) {
      nodes {
        id
        amount
        expiresAt
        aicoreProvider
        featureCode
        user { id displayName }
      }
      pageInfo { hasNextPage endCursor }
    }
  }
`);

interface HoldsProps {
  mandate: MandateInfo;
  userId: string | null;
  isAdmin: boolean;
  /** Changes with what is held. */
  moved: string;
}

export function Holds({ mandate, userId, isAdmin, moved }: HoldsProps) {
  const pages = usePages(HOLDS, { mandateId: mandate.id, userId }, (data) => data.holds);
  const { nodes, error, retry } = pages;
  useFollow(moved, retry);
  return (
    <Panel title="Held for running calls" className={nodes?.length === 0 ? "fills" : ""}>
      {!nodes && !error && <Loading />}
      {!nodes && error && <Problem error={error} retry={retry} />}
      {nodes?.length === 0 && (
        <Empty title="Nothing is held">Money is set aside here while a call runs, and given back or booked when it ends.</Empty>
      )}
      {nodes && nodes.length > 0 && <ul className="rows">
        {nodes.map(({ id, amount, expiresAt, aicoreProvider, featureCode, user }) => (
          <li key={id}>
            <span>
              <span className="strong">{[aicoreProvider, featureCode].filter(Boolean).join(" · ") || "A call"}</span>
              <span className="muted small block">
                {isAdmin && user && `${user.displayName} · `}until <When instant={expiresAt} timeZone={mandate.timeZone} />
              </span>
            </span>
            <Money amount={amount} currency={mandate.currency} />
          </li>
        ))}
      </ul>}
      {nodes && <More pages={pages} />}
    </Panel>
  );
}
