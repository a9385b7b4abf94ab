import { explorerPlugin } from "@graphiql/plugin-explorer";
import { HISTORY_PLUGIN } from "@graphiql/plugin-history";
import { GraphiQL } from "graphiql";

import { fetcher } from "./fetcher";
import { operations } from "./operations";
import { SignIn } from "./SignIn";

const plugins = [explorerPlugin(), HISTORY_PLUGIN];

export function App() {
  return (
    <>
      <SignIn />
      <main>
        <GraphiQL
          fetcher={fetcher}
          plugins={plugins}
          storage={sessionStorage}
          defaultTabs={operations}
          defaultEditorToolsVisibility="variables"
          isHeadersEditorEnabled={false}
          showPersistHeadersSettings={false}
        />
      </main>
    </>
  );
}
