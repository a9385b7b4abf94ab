import { useLiveState } from "./live";
import { signOut } from "./session";

const LIVE = { connecting: "Connecting…", live: "Live", offline: "Offline" } as const;

interface HeaderProps {
  name: string;
  mayChoose: boolean;
  isChoosing: boolean;
}

export function Header({ name, mayChoose, isChoosing }: HeaderProps) {
  const state = useLiveState();
  return (
    <header className="top">
      <div className="top-inner">
        <a className="brand" href="#/">Billing</a>
        {mayChoose && <a className="top-link" href="#/" aria-current={isChoosing ? "page" : undefined}>Mandates</a>}
        <span className="spacer" />
        {!isChoosing && <span className={`live ${state}`} role="status">{LIVE[state]}</span>}
        <span className="who">{name}</span>
        <button type="button" className="quiet" onClick={() => { signOut(); }}>Sign out</button>
      </div>
    </header>
  );
}
