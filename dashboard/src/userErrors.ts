/** Sorts the API's userErrors to the fields of a form. */

export interface UserError {
  code?: string;
  field?: string[] | null;
  message: string;
}

export interface FormErrors {
  byField: Record<string, string>;
  /** Those of no field that the form has. */
  general: string[];
}

export const NO_ERRORS: FormErrors = { byField: {}, general: [] };

const BOOKED =
  "Your first attempt was booked, as you had typed it then: it stands in the transactions. " +
  "Look there first; to book something else as well, close this and begin anew.";

/** `fields` are paths as the form names them, such as "amount" or "billingAddress.country". */
export function sortErrors(errors: readonly UserError[], fields: readonly string[]): FormErrors {
  const sorted: FormErrors = { byField: {}, general: [] };
  for (const { code, field, message } of errors) {
    if (code === "IDEMPOTENCY_CONFLICT") {
      sorted.general.push(BOOKED);
      continue;
    }
    const path = (field ?? []).join(".");
    // An entry of a list, such as notifyEmails.3, belongs to the list's own field.
    const name = fields.find((each) => path === each || path.startsWith(`${each}.`));
    if (name === undefined) sorted.general.push(message);
    else sorted.byField[name] = [sorted.byField[name], message].filter(Boolean).join(" ");
  }
  return sorted;
}
