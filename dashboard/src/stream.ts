/** Keeps a subscription going: one that ends without being asked to is begun again. */

export interface Result {
  data?: unknown;
  errors?: readonly { message: string; extensions?: Record<string, unknown> | undefined }[] | undefined;
}

export interface Sink {
  next: (result: Result) => void;
  error: (error: unknown) => void;
  complete: () => void;
}

export interface Stream {
  begin: (sink: Sink) => () => void;
  next: (result: Result) => void;
  /** Something may have been missed, or is no longer there. */
  missed: () => void;
  down: (isDown: boolean) => void;
}

const SHORTEST = 2_000;
const LONGEST = 60_000;
/** Not all pages come back in the same moment. */
const SPREAD = 1 + Math.random() / 4;

export function keepUp({ begin, next, missed, down }: Stream): () => void {
  let failures = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stop: () => void = () => undefined;
  let isOver = false;

  const start = () => {
    const startedAt = Date.now();
    let hasEnded = false;
    const ended = (errors: Result["errors"]) => {
      if (isOver || hasEnded) return;
      hasEnded = true;
      down(true);
      if (errors?.some(({ extensions }) => extensions?.["code"] === "UNAUTHENTICATED")) {
        next({ errors });
        return;
      }
      if (!errors) missed();
      failures = Date.now() - startedAt > LONGEST ? 0 : failures;
      timer = setTimeout(() => {
        down(false);
        start();
        missed();
      }, pause(errors, failures));
      failures += 1;
    };
    stop = begin({
      next: (result) => {
        if (hasEnded) return;
        if (result.errors?.length) {
          ended(result.errors);
          stop();
        } else next(result);
      },
      // What is no list of errors is a socket that was closed for good.
      error: (error) => { ended(Array.isArray(error) ? (error as Result["errors"]) : []); },
      complete: () => { ended(undefined); },
    });
  };

  start();
  return () => {
    isOver = true;
    clearTimeout(timer);
    down(false);
    stop();
  };
}

function pause(errors: Result["errors"], failures: number): number {
  const asked = Math.max(0, ...(errors ?? []).map(retryAfter)) * 1000;
  return Math.max(asked, Math.min(SHORTEST * 2 ** failures, LONGEST)) * SPREAD;
}

/** Seconds after which the API says that it is worth trying again, or 0. */
export function retryAfter({ extensions }: { extensions?: Record<string, unknown> | undefined }): number {
  const seconds = extensions?.["retryAfter"];
  return typeof seconds === "number" ? seconds : 0;
}
