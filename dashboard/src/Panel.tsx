/** A part of a screen, and what it shows while it loads, when it fails and when it is empty. */
import { useEffect, useId, useRef, type ReactNode } from "react";
import type { CombinedError } from "urql";

import { explain } from "./client";
import type { Pages } from "./usePages";

interface PanelProps {
  title: string;
  className?: string;
  actions?: ReactNode;
  children: ReactNode;
}

export function Panel({ title, className = "", actions, children }: PanelProps) {
  const id = useId();
  return (
    <section className={`panel ${className}`} aria-labelledby={id}>
      <header className="panel-head">
        <h2 id={id}>{title}</h2>
        {actions}
      </header>
      {children}
    </section>
  );
}

export function Loading({ rows = 3 }: { rows?: number }) {
  return (
    <div className="skeleton" role="status">
      <span className="visually-hidden">Loading…</span>
      {Array.from({ length: rows }, (_, row) => <span key={row} className="bone" />)}
    </div>
  );
}

export function Problem({ error, retry }: { error: CombinedError; retry: () => void }) {
  return (
    <div className="problem" role="alert">
      <p>{explain(error)}</p>
      <button type="button" onClick={retry}>Try again</button>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children && <p>{children}</p>}
    </div>
  );
}

/** Below a list: reads the next page when it comes into view, or by its button. */
export function More<Node>({ pages }: { pages: Pages<Node> }) {
  const { hasMore, error, more, retry } = pages;
  const sentinel = useRef<HTMLDivElement>(null);
  const isWaiting = hasMore && !error;
  useEffect(() => {
    if (!isWaiting || !sentinel.current) return;
    const observer = new IntersectionObserver(
      ([entry]) => { if (entry?.isIntersecting) more(); },
      { rootMargin: "400px" },
    );
    observer.observe(sentinel.current);
    return () => { observer.disconnect(); };
  }, [isWaiting, more]);
  if (error) return <Problem error={error} retry={retry} />;
  if (!hasMore) return null;
  return (
    <div ref={sentinel} className="more">
      <button type="button" className="quiet" onClick={more}>Show more</button>
    </div>
  );
}
