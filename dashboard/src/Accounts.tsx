/** For mandate admins: what pays. */
import { sentence } from "./format";
import { graphql } from "./gql";
import type { MandateInfo } from "./MandateScreen";
import { Money, When } from "./Money";
import { Empty, Loading, More, Panel, Problem } from "./Panel";
import { usePages } from "./usePages";

const ACCOUNTS = graphql(`
  query Accounts($mandateId: ID!, $first: Int!, $after: String) {
    accounts(mandateId: $mandateId, first: $first, after: $after) {
      nodes {
        id
        accountType
        balance
        held
        available
        isWarning
        enabled
        createdAt
        user { id displayName }
      }
      pageInfo { hasNextPage endCursor }
    }
  }
`);

const OWNERS = { USER: "A user", MANDATE: "The mandate", UNLIMITED: "Unlimited usage" } as const;

export function Accounts({ mandate }: { mandate: MandateInfo }) {
  const pages = usePages(ACCOUNTS, { mandateId: mandate.id }, (data) => data.accounts);
  const { nodes, error, retry } = pages;
  return (
    <Panel title="Accounts">
      {!nodes && !error && <Loading rows={6} />}
      {!nodes && error && <Problem error={error} retry={retry} />}
      {nodes?.length === 0 && (
        <Empty title="No accounts yet">One is opened by the first call, hold or credit that needs it.</Empty>
      )}
      {nodes && nodes.length > 0 && (
        <table>
          <caption className="visually-hidden">Accounts, newest first</caption>
          <thead>
            <tr>
              <th scope="col">Account</th>
              <th scope="col" className="wide">Opened</th>
              <th scope="col" className="number">Balance ({mandate.currency})</th>
              <th scope="col" className="number wide">Held</th>
              <th scope="col" className="number wide">Available</th>
            </tr>
          </thead>
          <tbody>
            {nodes.map(({ id, accountType, balance, held, available, isWarning, enabled, createdAt, user }) => (
              <tr key={id}>
                <td>
                  <span className="strong">{user?.displayName ?? OWNERS[accountType]}</span>
                  {!enabled && <span className="tag bad">Disabled</span>}
                  {isWarning && <span className="tag warn">Low</span>}
                  <span className="muted small block">{sentence(accountType)}</span>
                </td>
                <td className="wide muted"><When instant={createdAt} timeZone={mandate.timeZone} /></td>
                <td className="number"><Money amount={balance} isAligned /></td>
                <td className="number wide"><Money amount={held} isAligned /></td>
                <td className="number wide">{available == null ? "No limit" : <Money amount={available} isAligned />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {nodes && <More pages={pages} />}
    </Panel>
  );
}
