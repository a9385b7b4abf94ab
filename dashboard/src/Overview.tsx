/** What a member sees, and an admin of the whole mandate: balance, holds, costs and transactions. */
import { Balance } from "./Balance";
import { CostChart } from "./CostChart";
import { Holds } from "./Holds";
import type { MandateInfo, Role } from "./MandateScreen";
import { href } from "./route";
import { Transactions } from "./Transactions";

interface OverviewProps {
  mandate: MandateInfo;
  /** Of whom alone; for members the API shows nobody else's anyway. */
  userId: string | null;
  role: Role;
}

export function Overview({ mandate, userId, role }: OverviewProps) {
  const isAdmin = role !== "MEMBER";
  return (
    <>
      {userId !== null && (
        <p className="notice">
          <span>Only <strong>{userId}</strong> is shown.</span> <a href={href(mandate.id)}>Show the whole mandate</a>
        </p>
      )}
      <div className="grid">
        <Balance mandate={mandate} userId={userId} isAdmin={isAdmin} />
        <Holds mandate={mandate} userId={userId} isAdmin={isAdmin} />
      </div>
      <CostChart mandate={mandate} userId={userId} />
      <Transactions mandate={mandate} userId={userId} role={role} />
    </>
  );
}
