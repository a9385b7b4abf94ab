import { useEffect, useId, useRef, type ReactNode } from "react";

import { NO_ERRORS, type FormErrors } from "./userErrors";

interface FieldProps {
  label: string;
  hint?: string;
  error?: string | undefined;
  className?: string;
  /** The control, which takes these attributes. */
  children: (attributes: { id: string; "aria-describedby"?: string; "aria-invalid"?: true }) => ReactNode;
}

export function Field({ label, hint, error, className = "", children }: FieldProps) {
  const id = useId();
  const descriptions = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ");
  return (
    <div className={`field ${className}`}>
      <label htmlFor={id}>{label}</label>
      {children({
        id,
        ...(descriptions && { "aria-describedby": descriptions }),
        ...(error !== undefined && { "aria-invalid": true }),
      })}
      {error !== undefined && <p id={`${id}-error`} className="field-error">{error}</p>}
      {hint !== undefined && <p id={`${id}-hint`} className="hint">{hint}</p>}
    </div>
  );
}

/** Above a form: what belongs to none of its fields. The focus goes to the first field at fault, or of a new dialog. */
export function FormProblems({ errors }: { errors: FormErrors }) {
  const element = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const form = element.current?.closest("form");
    const first = errors === NO_ERRORS ? "dialog :is(input, select)" : "[aria-invalid=true]";
    form?.querySelector<HTMLElement>(first)?.focus();
  }, [errors]);
  return (
    <div ref={element} role="alert" className="form-problems">
      {errors.general.map((message) => <p key={message}>{message}</p>)}
    </div>
  );
}

/** What was typed into a form's field of that name. */
export function entry(form: FormData, name: string): string {
  const value = form.get(name);
  return typeof value === "string" ? value : "";
}
