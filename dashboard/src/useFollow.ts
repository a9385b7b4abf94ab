/** Reads again when something has moved, but not for each of many moves: the API counts calls. */
import { useEffect, useRef } from "react";

const SOON = 1_000;
const PAUSE = 15_000;

export function useFollow(moved: string | undefined, read: () => void): void {
  const seen = useRef(moved);
  const readAt = useRef(0);
  const pending = useRef<ReturnType<typeof setTimeout>>(undefined);
  const latest = useRef(read);
  useEffect(() => {
    latest.current = read;
  }, [read]);
  useEffect(() => {
    if (seen.current === moved) return;
    seen.current = moved;
    pending.current ??= setTimeout(() => {
      pending.current = undefined;
      readAt.current = Date.now();
      latest.current();
    }, Math.max(SOON, readAt.current + PAUSE - Date.now()));
  }, [moved]);
  useEffect(
    () => () => {
      clearTimeout(pending.current);
      pending.current = undefined;
    },
    [],
  );
}
