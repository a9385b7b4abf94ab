// The hash that codegen gives a document: by it the manifest of the trusted documents knows it.
import assert from "node:assert/strict";

import type { DocumentNode } from "graphql";

export function hashInManifest(document: DocumentNode): string {
  const { __meta__: meta } = document as { __meta__?: { hash: string } };
  assert(meta, "the document is not generated");
  return meta.hash;
}
