/** Puts what was just written into a list that shows the newest first, each once; ids are ordered by writing. */
export function insertNewest<Node extends { id: string }>(nodes: readonly Node[], node: Node, hasMore: boolean): Node[] {
  const place = nodes.findIndex(({ id }) => id <= node.id);
  if (place >= 0) return nodes[place]?.id === node.id ? [...nodes] : nodes.toSpliced(place, 0, node);
  // Behind the end it comes with the pages that follow.
  return hasMore ? [...nodes] : [...nodes, node];
}
