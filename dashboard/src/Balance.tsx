/** The balance, live, and how long it will last. */
import { useEffect } from "react";
import { useSubscription } from "urql";

import { compareAmounts, dayOf, formatDay, formatDistance } from "./format";
import { graphql, readFragment } from "./gql";
import type { BalanceCardFragment } from "./gql/graphql";
import type { Limit, MandateInfo } from "./MandateScreen";
import { Money, When } from "./Money";
import { Empty, Loading, Panel, Problem } from "./Panel";
import { useFollow } from "./useFollow";
import { useRead } from "./useRead";

const CARD = graphql(`
  fragment BalanceCard on Balance {
    id
    asOf
    billingModel
    balance
    held
    available
    creditLimit
    warningThreshold
    isWarning
    user { id displayName }
    forecast { dailyCost7 dailyCost30 emptyOn }
  }
`);

const BALANCE = graphql(`
  query Balance($mandateId: ID!, $userId: ID, $isAdmin: Boolean!) {
    mandate(id: $mandateId) {
      id
      balance(userId: $userId) { ...BalanceCard }
    }
    accounts(mandateId: $mandateId, first: 1) @include(if: $isAdmin) {
      totalBalance
      totalHeld
      totalCount
    }
  }
`);

const BALANCE_CHANGED = graphql(`
  subscription BalanceChanged($mandateId: ID!, $userId: ID) {
    balanceChanged(mandateId: $mandateId, userId: $userId) { ...BalanceCard }
  }
`);

interface BalanceProps {
  mandate: MandateInfo;
  userId: string | null;
  isAdmin: boolean;
  /** Of the viewer's own spending in this mandate. */
  limit: Limit | null;
  /** Of the transaction written last: the sum of all accounts has changed. */
  latestId: string | undefined;
  heldChanged: (held: string) => void;
}

export function Balance({ mandate, userId, isAdmin, limit, latestId, heldChanged }: BalanceProps) {
  const asked = { mandateId: mandate.id, userId };
  const { data, error, retry } = useRead(BALANCE, { ...asked, isAdmin: isAdmin && userId === null });
  const wasRead = readFragment(CARD, data?.mandate?.balance);
  const [{ data: change }] = useSubscription({ query: BALANCE_CHANGED, variables: asked, pause: !wasRead });
  const hasChanged = readFragment(CARD, change?.balanceChanged);
  const balance = newest(wasRead, hasChanged);
  const { accounts } = data ?? {};
  useFollow(accounts ? latestId : undefined, retry);
  const held = balance?.held;
  useEffect(() => {
    if (held !== undefined) heldChanged(held);
  }, [held, heldChanged]);
  const { currency, timeZone } = mandate;
  return (
    <Panel title={balance ? title(balance) : accounts ? "All accounts" : "Balance"} className="hero" actions={balance && <State balance={balance} />}>
      {!data && !error && <Loading />}
      {!data && error && <Problem error={error} retry={retry} />}
      {balance && <Card balance={balance} mandate={mandate} />}
      {data && !balance && !accounts && (
        <Empty title="No balance">
          {userId === null ? "You have none of your own in this mandate." : "Nobody of that id has one in this mandate."}
        </Empty>
      )}
      {limit && userId === null && (
        <p className="limit">
          <span>Your limit: <Money amount={limit.remaining} currency={currency} /> of{" "}
          <Money amount={limit.amount} currency={currency} /> left</span>
          <span className="muted">until <When instant={limit.resetsAt} timeZone={timeZone} /></span>
        </p>
      )}
      {accounts && !balance && (
        <p className="figure" data-testid="total"><Money amount={accounts.totalBalance} currency={currency} /></p>
      )}
      {accounts && (!balance || balance.user) && (
        <dl className="facts">
          {balance && <Fact name="All accounts" amount={accounts.totalBalance} currency={currency} />}
          <Fact name="Held on all" amount={accounts.totalHeld} currency={currency} />
          <div><dt>Accounts</dt><dd>{accounts.totalCount}</dd></div>
        </dl>
      )}
    </Panel>
  );
}

function newest(one?: BalanceCardFragment | null, other?: BalanceCardFragment | null) {
  if (!one || !other) return one ?? other;
  return Date.parse(one.asOf) > Date.parse(other.asOf) ? one : other;
}

function title({ billingModel, user }: BalanceCardFragment): string {
  if (billingModel === "UNLIMITED") return "Used so far";
  return user ? `Balance of ${user.displayName}` : "Balance of the mandate";
}

function Card({ balance, mandate }: { balance: BalanceCardFragment; mandate: MandateInfo }) {
  const { currency } = mandate;
  const { available, creditLimit, forecast } = balance;
  return (
    <>
      <p className="figure" data-testid="balance" aria-live="polite">
        <Money amount={balance.balance} currency={currency} />
      </p>
      {forecast && <Outlook emptyOn={forecast.emptyOn ?? null} timeZone={mandate.timeZone} available={available ?? null} />}
      <dl className="facts">
        {available != null && <Fact name="Available" amount={available} currency={currency} />}
        <Fact name="Held" amount={balance.held} currency={currency} />
        {creditLimit != null && <Fact name="Credit limit" amount={creditLimit} currency={currency} />}
        {available != null && <Fact name="Warning at" amount={balance.warningThreshold} currency={currency} />}
        {forecast && <Fact name="Daily cost, 7 days" amount={forecast.dailyCost7} currency={currency} />}
        {forecast && <Fact name="Daily cost, 30 days" amount={forecast.dailyCost30} currency={currency} />}
      </dl>
    </>
  );
}

function State({ balance: { available, isWarning, billingModel } }: { balance: BalanceCardFragment }) {
  if (available == null) return <p className="chip">No limit</p>;
  if (compareAmounts(available, "0") <= 0) return <p className="chip bad">Nothing left to spend</p>;
  if (isWarning) return <p className="chip warn">Running low</p>;
  return <p className="chip good">{billingModel === "CREDIT_POSTPAY" ? "Within the limit" : "In credit"}</p>;
}

function Outlook({ emptyOn, timeZone, available }: { emptyOn: string | null; timeZone: string; available: string | null }) {
  if (available === null || compareAmounts(available, "0") <= 0) return null;
  if (emptyOn === null) return <p className="outlook">Nothing was spent in the last 7 days.</p>;
  const distance = formatDistance(emptyOn, dayOf(new Date(), timeZone));
  return (
    <p className="outlook">
      Lasts until about <strong>{formatDay(emptyOn)}</strong> <span className="muted">({distance})</span>
    </p>
  );
}

function Fact({ name, amount, currency }: { name: string; amount: string; currency: string }) {
  return <div><dt>{name}</dt><dd><Money amount={amount} currency={currency} /></dd></div>;
}
