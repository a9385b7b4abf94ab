/** Which mandate: one's own, or any for those who see them all. */
import { useState } from "react";

import { sentence } from "./format";
import { graphql } from "./gql";
import { Money } from "./Money";
import { Empty, Loading, More, Panel, Problem } from "./Panel";
import { href } from "./route";
import { Search } from "./Search";
import { usePages } from "./usePages";
import { useSettled } from "./useSettled";

const MANDATES = graphql(`
  query Mandates($search: String, $first: Int!, $after: String) {
    mandates(search: $search, first: $first, after: $after) {
      nodes {
        id
        name
        currency
        balance { id billingModel balance isWarning }
      }
      pageInfo { hasNextPage endCursor }
    }
  }
`);

export function Mandates() {
  const [search, setSearch] = useState("");
  const wanted = useSettled(search.trim());
  const pages = usePages(MANDATES, { search: wanted || null }, (data) => data.mandates);
  const { nodes } = pages;
  return (
    <>
      <h1 className="title">Mandates</h1>
      <Panel title="Choose a mandate" actions={<Search label="Find a mandate" value={search} change={setSearch} />}>
        {!nodes && !pages.error && <Loading />}
        {!nodes && pages.error && <Problem error={pages.error} retry={pages.retry} />}
        {nodes?.length === 0 && (
          <Empty title="No mandate found">
            {wanted ? "Try a part of its name or its id." : "Ask an administrator to add you to one."}
          </Empty>
        )}
        <ul className="choices">
          {nodes?.map(({ id, name, currency, balance }) => (
            <li key={id}>
              <a className="choice" href={href(id)}>
                <span>
                  <span className="strong">{name}</span>
                  <span className="muted small block">
                    {id}{balance && ` · ${sentence(balance.billingModel)}`}
                  </span>
                </span>
                {balance && <Money amount={balance.balance} currency={currency} />}
              </a>
            </li>
          ))}
        </ul>
        {nodes && <More pages={pages} />}
      </Panel>
    </>
  );
}
