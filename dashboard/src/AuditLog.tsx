/** For mandate admins: who changed what, newest first. */
import { changes } from "./audit";
import { graphql } from "./gql";
import type { MandateInfo } from "./MandateScreen";
import { When } from "./Money";
import { Empty, Loading, More, Panel, Problem } from "./Panel";
import { usePages } from "./usePages";

const AUDIT_LOG = graphql(`
  query AuditLog($mandateId: ID!, $first: Int!, $after: String) {
    auditLog(mandateId: $mandateId, first: $first, after: $after) {
      nodes {
        id
        action
        subject
        createdAt
        before
        after
        actor { id displayName }
      }
      pageInfo { hasNextPage endCursor }
    }
  }
`);

export function AuditLog({ mandate }: { mandate: MandateInfo }) {
  const pages = usePages(AUDIT_LOG, { mandateId: mandate.id }, (data) => data.auditLog);
  const { nodes, error, retry } = pages;
  return (
    <Panel title="Audit log">
      {!nodes && !error && <Loading rows={6} />}
      {!nodes && error && <Problem error={error} retry={retry} />}
      {nodes?.length === 0 && <Empty title="Nothing was changed yet" />}
      <ol className="events">
        {nodes?.map(({ id, action, subject, createdAt, before, after, actor }) => (
          <li key={id}>
            <p>
              <span className="strong">{action}</span> <span className="subject">{subject}</span>
              <span className="muted small block">
                {actor?.displayName ?? "The operator"}, <When instant={createdAt} timeZone={mandate.timeZone} />
              </span>
            </p>
            <dl className="changes">
              {changes(before, after).map((change) => (
                <div key={change.name}>
                  <dt>{change.name}</dt>
                  <dd>
                    {change.before !== null && <><del>{change.before}</del> → </>}
                    {change.after !== null ? <ins>{change.after}</ins> : "removed"}
                  </dd>
                </div>
              ))}
            </dl>
          </li>
        ))}
      </ol>
      {nodes && <More pages={pages} />}
    </Panel>
  );
}
