import { useLiveState } from "./live";
import { signOut } from "./session";

const LIVE = { idle: "", connecting: "Connecting…", live: "Live", offline: "Offline" } as const;

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
        <span className={`sign ${state}`} role="status"><span>{LIVE[state]}</span></span>
        <span className="who">{name}</span>
        <button type="button" className="quiet sign-out" onClick={() => {
          location.hash = "";
          signOut();
        }}>Sign out</button>
      </div>
    </header>
  );
}
