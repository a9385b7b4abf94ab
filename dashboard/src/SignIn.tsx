import { useEffect, useState } from "react";

import { entry, Field } from "./Field";
import { signIn, useReason } from "./session";

interface Person {
  id: string;
  role: string;
  token: string;
}

/** Those whom a demo server offers; nobody elsewhere. */
async function demoPeople(signal: AbortSignal): Promise<Person[]> {
  const response = await fetch("/demo/people", { signal });
  return response.ok ? ((await response.json()) as Person[]) : [];
}

export function SignIn() {
  const reason = useReason();
  const [people, setPeople] = useState<Person[]>([]);
  const [fault, setFault] = useState<string>();
  useEffect(() => {
    const abort = new AbortController();
    demoPeople(abort.signal).then(setPeople, () => undefined);
    return () => { abort.abort(); };
  }, []);
  const submit = (form: FormData) => {
    const token = entry(form, "token").trim().replace(/^Bearer\s+/i, "");
    if (/^[\x21-\x7e]+$/.test(token)) signIn(token);
    else setFault("Paste the whole token: letters, digits and points, without blanks.");
  };
  return (
    <main className="page sign-in">
      <h1>Billing</h1>
      <p className="lead">What AI calls cost, and what is left to spend.</p>
      {reason !== null && <p className="notice" role="alert">{reason}</p>}
      {people.length > 0 && (
        <section className="panel" aria-labelledby="people">
          <header className="panel-head"><h2 id="people">Sign in as a demo person</h2></header>
          <ul className="people">
            {people.map(({ id, role, token }) => (
              <li key={id}>
                <button type="button" className="person" onClick={() => { signIn(token); }}>
                  <span className="strong">{id}</span>
                  <span className="muted">{role}</span>
                </button>
              </li>
            ))}
          </ul>
        </section>
      )}
      <section className="panel" aria-labelledby="paste">
        <header className="panel-head"><h2 id="paste">Sign in with a token</h2></header>
        <form onSubmit={(event) => { event.preventDefault(); submit(new FormData(event.currentTarget)); }}>
          <Field label="Token" error={fault} hint="It stays in this tab and is forgotten when the tab is closed.">
            {(attributes) => <input {...attributes} name="token" type="password" autoComplete="off" spellCheck={false} required />}
          </Field>
          <button type="submit" className="primary">Sign in</button>
        </form>
      </section>
    </main>
  );
}
