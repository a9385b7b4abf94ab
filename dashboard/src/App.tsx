/** Signed in or not, which mandate, and which screen of it. */
import { useEffect, useState } from "react";
import { Provider } from "urql";

import { connect, type Connection } from "./client";
import { graphql } from "./gql";
import { Header } from "./Header";
import { MandateScreen } from "./MandateScreen";
import { Mandates } from "./Mandates";
import { Loading, Problem } from "./Panel";
import { useRoute } from "./route";
import { useToken } from "./session";
import { SignIn } from "./SignIn";
import { useRead } from "./useRead";

const VIEWER = graphql(`
  query Viewer {
    viewer {
      isSysAdmin
      user { id kind displayName }
      memberships {
        id
        role
        mandate { id name }
        spendLimit { amount remaining resetsAt }
      }
    }
  }
`);

export function App() {
  const token = useToken();
  return token === null ? <SignIn /> : <SignedIn key={token} token={token} />;
}

function SignedIn({ token }: { token: string }) {
  const [connection, setConnection] = useState<Connection | null>(null);
  useEffect(() => {
    const opened = connect(token);
    // eslint-disable-next-line react-hooks/set-state-in-effect -- it is closed again with the effect
    setConnection(opened);
    return opened.close;
  }, [token]);
  return connection && <Provider value={connection.client}><Shell /></Provider>;
}

function Shell() {
  const { mandateId, screen, userId } = useRoute();
  const { data, error, retry } = useRead(VIEWER, {});
  if (!data) {
    return <main className="page">{error ? <Problem error={error} retry={retry} /> : <Loading />}</main>;
  }
  const { viewer } = data;
  const seesAll = viewer.isSysAdmin || viewer.user.kind === "SERVICE";
  const [only, another] = viewer.memberships;
  // Who belongs to one mandate alone has nothing to choose.
  const chosen = mandateId ?? (!seesAll && only && !another ? only.mandate.id : null);
  const membership = viewer.memberships.find(({ mandate }) => mandate.id === chosen);
  return (
    <>
      <a className="skip" href="#main" onClick={(event) => {
        event.preventDefault();
        document.getElementById("main")?.focus();
      }}>Skip to content</a>
      <Header name={viewer.user.displayName} mayChoose={seesAll || Boolean(another)} isChoosing={chosen === null} />
      <main id="main" className="page" tabIndex={-1}>
        {chosen === null ? (
          <Mandates />
        ) : (
          <MandateScreen
            key={chosen}
            mandateId={chosen}
            screen={screen}
            userId={userId}
            role={viewer.isSysAdmin ? "SYSADMIN" : (membership?.role ?? "MEMBER")}
            limit={membership?.spendLimit ?? null}
          />
        )}
      </main>
    </>
  );
}
