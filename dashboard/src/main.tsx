import "./styles.css";

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./App";
import { Otherwise } from "./Otherwise";

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");
createRoot(root).render(
  <StrictMode>
    <Otherwise text="This page has failed: load it again. Nothing was changed by that."><App /></Otherwise>
  </StrictMode>,
);
