/** A list that grows by cursors while it is scrolled. */
import type { TypedDocumentNode } from "@graphql-typed-document-node/core";
import { useCallback, useEffect, useRef, useState } from "react";
import { useClient, type CombinedError } from "urql";

import { limitedFor } from "./client";
import { insertNewest } from "./newest";
import { useRevision } from "./revision";

const PAGE = 50;
const MOST = 500;
/** Of those that come live; when there are more, the list is read again. */
const KEPT = 100;
const PAUSE = 15_000;

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
  /** Takes up what was just written, in a list of the newest first. */
  add: (node: Node) => void;
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
  // Those that came since the list was last asked for: its answer may be without them.
  const fresh = useRef<Node[]>([]);
  const catchUp = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => {
    let isWanted = true;
    fresh.current = [];
    // As many as were shown, so that a list that was read again stays where it was scrolled to.
    void read(Math.min(Math.max(shown, PAGE), MOST), null).then((page) => {
      if (!isWanted) return;
      setLoaded((before) => {
        if (page.error && before?.key === key) return { ...before, error: page.error };
        return fresh.current.reduce(insertInto, page);
      });
    });
    return () => {
      isWanted = false;
      clearTimeout(catchUp.current);
      catchUp.current = undefined;
    };
    // Not again for each page that was added.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [read, revision, attempt]);

  const retry = useCallback(() => { setAttempt((before) => before + 1); }, []);

  const add = useCallback((node: Node) => {
    if (fresh.current.length < KEPT) {
      fresh.current = [...fresh.current, node];
      setLoaded((before) => (before?.key === key ? insertInto(before, node) : before));
    } else catchUp.current ??= setTimeout(retry, PAUSE);
  }, [key, retry]);

  const error = current?.error;
  useEffect(() => {
    const pause = limitedFor(error);
    if (pause === null) return;
    const pending = setTimeout(retry, pause);
    return () => { clearTimeout(pending); };
  }, [error, retry]);

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

  return {
    nodes: current && (current.nodes.length > 0 || !current.error) ? current.nodes : null,
    hasMore: end !== null,
    error: error ?? null,
    more,
    retry,
    add,
  };
}

function insertInto<Node extends { id: string }>(loaded: Loaded<Node>, node: Node): Loaded<Node> {
  return { ...loaded, nodes: insertNewest(loaded.nodes, node, loaded.pageInfo.hasNextPage) };
}

/** The second list behind the first, each node once: pages that were read at two times may overlap. */
function join<Node extends { id: string }>(first: Node[], then: Node[]): Node[] {
  const known = new Set(first.map(({ id }) => id));
  return [...first, ...then.filter(({ id }) => !known.has(id))];
}
