/** A mandate's name, the screens of it that the viewer's role has, and the chosen one. */
import { useState } from "react";

import { Accounts } from "./Accounts";
import { AuditLog } from "./AuditLog";
import { Credit } from "./Credit";
import { graphql } from "./gql";
import { Overview } from "./Overview";
import { Empty, Loading, Problem } from "./Panel";
import { href, SCREENS, type Screen } from "./route";
import { Settings } from "./Settings";
import { useRead } from "./useRead";
import { Users } from "./Users";

const MANDATE = graphql(`
  query Mandate($id: ID!) {
    mandate(id: $id) { id name currency timeZone }
  }
`);

export type Role = "MEMBER" | "ADMIN" | "SYSADMIN";

export interface MandateInfo {
  id: string;
  name: string;
  currency: string;
  timeZone: string;
}

export interface Limit {
  amount: string;
  remaining: string;
  resetsAt: string;
}

const TITLES: Record<Screen, string> = {
  overview: "Overview",
  users: "Users",
  accounts: "Accounts",
  audit: "Audit log",
  settings: "Settings",
};

interface MandateScreenProps {
  mandateId: string;
  screen: Screen;
  /** Whose overview; the viewer's own, or all of the mandate, when null. */
  userId: string | null;
  role: Role;
  limit: Limit | null;
}

export function MandateScreen({ mandateId, screen, userId, role, limit }: MandateScreenProps) {
  const { data, error, retry } = useRead(MANDATE, { id: mandateId });
  const [isCrediting, setIsCrediting] = useState(false);
  if (!data) return error ? <Problem error={error} retry={retry} /> : <Loading />;
  const { mandate } = data;
  if (!mandate) {
    return <Empty title="There is no such mandate">It does not exist, or you do not, or no longer, belong to it.</Empty>;
  }
  const shown = role === "MEMBER" ? "overview" : screen;
  return (
    <>
      <div className="title-row">
        <h1 className="title">{mandate.name}</h1>
        {role === "SYSADMIN" && (
          <button type="button" className="primary" onClick={() => { setIsCrediting(true); }}>Add credit</button>
        )}
      </div>
      {role !== "MEMBER" && (
        <nav className="tabs" aria-label="Screens">
          {SCREENS.map((each) => (
            <a key={each} href={href(mandateId, each)} aria-current={each === shown ? "page" : undefined}>
              {TITLES[each]}
            </a>
          ))}
        </nav>
      )}
      {shown === "overview" && (
        <Overview key={userId} mandate={mandate} userId={role === "MEMBER" ? null : userId} role={role} limit={limit} />
      )}
      {shown === "users" && <Users mandate={mandate} />}
      {shown === "accounts" && <Accounts mandate={mandate} />}
      {shown === "audit" && <AuditLog mandate={mandate} />}
      {shown === "settings" && <Settings mandate={mandate} mayEdit={role === "SYSADMIN"} />}
      {isCrediting && (
        <Credit mandate={mandate} userId={userId} close={() => { setIsCrediting(false); }} />
      )}
    </>
  );
}
