/** A list that grows by cursors while it is scrolled. */
import type { TypedDocumentNode } from "@graphql-typed-document-node/core";
import { useCallback, useEffect, useState } from "react";
import { useClient, type CombinedError } from "urql";

import { useRevision } from "./revision";

const PAGE = 50;
const MOST = 500;

interface Page<Node> {
  nodes: Node[];
  pageInfo: { hasNextPage: boolean; endCursor?: string | null | undefined };
}

interface Loaded<Node> extends Page<Node> {
  key: string;
  error: CombinedError | null;
}

export interface Pages<Node> {
  /** Null until the first page has come. */
  nodes: Node[] | null;
  hasMore: boolean;
  error: CombinedError | null;
  more: () => void;
  retry: () => void;
}

export function usePages<Data, Variables extends { first: number; after?: string | null | undefined }, Node extends { id: string }>(
  document: TypedDocumentNode<Data, Variables>,
  variables: Omit<Variables, "first" | "after">,
  pick: (data: Data) => Page<Node> | null | undefined,
): Pages<Node> {
  const client = useClient();
  const revision = useRevision();
  const [attempt, setAttempt] = useState(0);
  const [loaded, setLoaded] = useState<Loaded<Node> | null>(null);
  const key = JSON.stringify(variables);
  const current = loaded?.key === key ? loaded : null;

  const read = useCallback(
    async (first: number, after: string | null): Promise<Loaded<Node>> => {
      const asked = { ...(JSON.parse(key) as Omit<Variables, "first" | "after">), first, after } as Variables;
      const { data, error } = await client.query(document, asked, { requestPolicy: "network-only" }).toPromise();
      const page = (data && pick(data)) ?? { nodes: [], pageInfo: { hasNextPage: false } };
      return { ...page, key, error: error ?? null };
    },
    // `pick` is written in place by every caller, and never changes what it does.
    // eslint-disable-next-line react-hooks/exhaustive-deps
    [client, document, key],
  );

  const shown = current?.nodes.length ?? 0;
  useEffect(() => {
    let isWanted = true;
    // As many as were shown, so that a list that was read again stays where it was scrolled to.
    void read(Math.min(Math.max(shown, PAGE), MOST), null).then((page) => {
      if (isWanted) setLoaded(page);
    });
    return () => {
      isWanted = false;
    };
    // Not again for each page that was added.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [read, revision, attempt]);

  const end = current?.pageInfo.hasNextPage ? (current.pageInfo.endCursor ?? null) : null;
  const more = useCallback(() => {
    if (end === null) return;
    void read(PAGE, end).then((page) => {
      setLoaded((before) => {
        if (before?.key !== key || before.pageInfo.endCursor !== end) return before;
        if (page.error) return { ...before, error: page.error };
        return { ...page, nodes: join(before.nodes, page.nodes) };
      });
    });
  }, [read, key, end]);

  const retry = useCallback(() => { setAttempt((before) => before + 1); }, []);

  return {
    nodes: current && (current.nodes.length > 0 || !current.error) ? current.nodes : null,
    hasMore: end !== null,
    error: current?.error ?? null,
    more,
    retry,
  };
}

/** The second list behind the first, each node once: pages that were read at two times may overlap. */
function join<Node extends { id: string }>(first: Node[], then: Node[]): Node[] {
  const known = new Set(first.map(({ id }) => id));
  return [...first, ...then.filter(({ id }) => !known.has(id))];
}
