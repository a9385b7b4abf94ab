/** A value that is typed, once the typing pauses: each letter would be a call of its own. */
import { useEffect, useState } from "react";

const PAUSE = 300;

export function useSettled<Value>(value: Value): Value {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const pending = setTimeout(() => { setSettled(value); }, PAUSE);
    return () => { clearTimeout(pending); };
  }, [value]);
  return settled;
}
