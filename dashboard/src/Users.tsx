/** For mandate admins: who belongs to the mandate, what they have and what limits them. */
import { useState } from "react";

import { sentence } from "./format";
import { graphql } from "./gql";
import type { MandateInfo } from "./MandateScreen";
import { Money } from "./Money";
import { Empty, Loading, More, Panel, Problem } from "./Panel";
import { href } from "./route";
import { Search } from "./Search";
import { usePages } from "./usePages";
import { useSettled } from "./useSettled";

const USERS = graphql(`
  query MandateUsers($mandateId: ID!, $search: String, $first: Int!, $after: String) {
    mandateUsers(mandateId: $mandateId, search: $search, first: $first, after: $after) {
      nodes {
        id
        role
        user { id displayName email }
        balance { id balance available isWarning }
        spendLimit { amount period remaining }
      }
      pageInfo { hasNextPage endCursor }
    }
  }
`);

export function Users({ mandate }: { mandate: MandateInfo }) {
  const [search, setSearch] = useState("");
  const wanted = useSettled(search.trim());
  const pages = usePages(USERS, { mandateId: mandate.id, search: wanted || null }, (data) => data.mandateUsers);
  const { nodes, error, retry } = pages;
  return (
    <Panel title="Users" actions={<Search label="Find a user" value={search} change={setSearch} />}>
      {!nodes && !error && <Loading rows={6} />}
      {!nodes && error && <Problem error={error} retry={retry} />}
      {nodes?.length === 0 && (
        <Empty title="No users">{wanted ? "Try a part of a name or of an e-mail address." : "Nobody belongs to this mandate yet."}</Empty>
      )}
      {nodes && nodes.length > 0 && (
        <table>
          <caption className="visually-hidden">Users</caption>
          <thead>
            <tr>
              <th scope="col">User</th>
              <th scope="col" className="wide">Role</th>
              <th scope="col" className="number">Balance ({mandate.currency})</th>
              <th scope="col" className="number wide">Spend limit</th>
            </tr>
          </thead>
          <tbody>
            {nodes.map(({ id, role, user, balance, spendLimit }) => (
              <tr key={id}>
                <td>
                  <a className="strong" href={href(mandate.id, "overview", user.id)}>{user.displayName}</a>
                  {balance?.isWarning && <span className="tag warn">Low</span>}
                  <span className="muted small block">{user.email}</span>
                </td>
                <td className="wide">{sentence(role)}</td>
                <td className="number">
                  {balance ? <Money amount={balance.balance} isAligned /> : <span className="muted">The mandate pays</span>}
                </td>
                <td className="number wide">
                  {spendLimit ? (
                    <>
                      <Money amount={spendLimit.amount} /> a {spendLimit.period.toLowerCase()}
                      <span className="muted small block"><Money amount={spendLimit.remaining} /> left</span>
                    </>
                  ) : <span className="muted">None</span>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {nodes && <More pages={pages} />}
    </Panel>
  );
}
