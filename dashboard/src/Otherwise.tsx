import { Component, type ReactNode } from "react";

/** A part that fails takes nothing else of the page with it. */
export class Otherwise extends Component<{ text: string; children: ReactNode }> {
  override state = { hasFailed: false };

  static getDerivedStateFromError() {
    return { hasFailed: true };
  }

  override render() {
    return this.state.hasFailed ? <p className="notice" role="alert">{this.props.text}</p> : this.props.children;
  }
}
