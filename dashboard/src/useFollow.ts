/** Reads again when something has moved, but not for each of many moves: the API counts calls. */
import { useEffect, useRef } from "react";

const PAUSE = 15_000;

export function useFollow(moved: string | undefined, read: () => void): void {
  const seen = useRef(moved);
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
      latest.current();
    }, PAUSE);
  }, [moved]);
  useEffect(
    () => () => {
      clearTimeout(pending.current);
      pending.current = undefined;
    },
    [],
  );
}
