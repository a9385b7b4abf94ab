/** One query, read again whenever what it shows has become old. */
import type { TypedDocumentNode } from "@graphql-typed-document-node/core";
import { useCallback, useEffect, useRef, useState } from "react";
import { useQuery, type AnyVariables, type CombinedError } from "urql";

import { limitedFor } from "./client";
import { useRevision } from "./revision";

export interface Reading<Data> {
  /** What was read last, also where reading it again has failed. */
  data: Data | undefined;
  error: CombinedError | undefined;
  isLoading: boolean;
  retry: () => void;
}

export function useRead<Data, Variables extends AnyVariables>(
  query: TypedDocumentNode<Data, Variables>,
  variables: Variables,
): Reading<Data> {
  const revision = useRevision();
  const seen = useRef(revision);
  const [{ data, error, fetching, stale, operation }, execute] = useQuery({ query, variables });
  const [kept, setKept] = useState<{ key: number | undefined; data: Data }>();
  if (data !== undefined && !error && kept?.data !== data) setKept({ key: operation?.key, data });
  const retry = useCallback(() => { execute({ requestPolicy: "network-only" }); }, [execute]);
  useEffect(() => {
    if (seen.current === revision) return;
    seen.current = revision;
    retry();
  }, [revision, retry]);
  useEffect(() => {
    const pause = limitedFor(error);
    if (pause === null) return;
    const pending = setTimeout(retry, pause);
    return () => { clearTimeout(pending); };
  }, [error, retry]);
  return {
    data: !error ? data : kept?.key === operation?.key ? kept?.data : undefined,
    error,
    isLoading: fetching || stale,
    retry,
  };
}
