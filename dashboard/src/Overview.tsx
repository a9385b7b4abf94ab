/** What a member sees, and an admin of the whole mandate: balance, holds, costs and transactions. */
import { useState } from "react";

import { Balance } from "./Balance";
import { CostChart } from "./CostChart";
import { Holds } from "./Holds";
import type { Limit, MandateInfo, Role } from "./MandateScreen";
import { href } from "./route";
import { Transactions } from "./Transactions";

interface OverviewProps {
  mandate: MandateInfo;
  /** Of whom alone; for members the API shows nobody else's anyway. */
  userId: string | null;
  role: Role;
  limit: Limit | null;
}

export function Overview({ mandate, userId, role, limit }: OverviewProps) {
  const isAdmin = role !== "MEMBER";
  const [latestId, setLatestId] = useState<string>();
  const [held, setHeld] = useState("");
  return (
    <>
      {userId !== null && (
        <p className="notice">
          <span>Only <strong>{userId}</strong> is shown.</span> <a href={href(mandate.id)}>Show the whole mandate</a>
        </p>
      )}
      <div className="grid">
        <Balance mandate={mandate} userId={userId} isAdmin={isAdmin} limit={limit} latestId={latestId} heldChanged={setHeld} />
        <Holds mandate={mandate} userId={userId} isAdmin={isAdmin} moved={`${held} ${latestId ?? ""}`} />
      </div>
      <CostChart mandate={mandate} userId={userId} latestId={latestId} />
      <Transactions mandate={mandate} userId={userId} role={role} added={setLatestId} />
    </>
  );
}
