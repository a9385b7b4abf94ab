/** One query, read again whenever what it shows has become old. */
import type { TypedDocumentNode } from "@graphql-typed-document-node/core";
import { useCallback, useEffect, useRef } from "react";
import { useQuery, type AnyVariables, type CombinedError } from "urql";

import { useRevision } from "./revision";

export interface Reading<Data> {
  data: Data | undefined;
  error: CombinedError | undefined;
  isLoading: boolean;
  retry: () => void;
}

export function useRead<Data, Variables extends AnyVariables>(
  query: TypedDocumentNode<Data, Variables>,
  variables: Variables,
  pause = false,
): Reading<Data> {
  const revision = useRevision();
  const seen = useRef(revision);
  const [{ data, error, fetching, stale }, execute] = useQuery({ query, variables, pause });
  useEffect(() => {
    if (seen.current === revision || pause) return;
    seen.current = revision;
    execute({ requestPolicy: "network-only" });
  }, [revision, pause, execute]);
  const retry = useCallback(() => { execute({ requestPolicy: "network-only" }); }, [execute]);
  return {
    data,
    error,
    isLoading: fetching || stale,
    retry,
  };
}
