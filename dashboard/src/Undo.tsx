/** Undoes a booking: writes its opposite, once, after a confirmation with a reason. */
import { useState } from "react";
import { useMutation } from "urql";

import { explain } from "./client";
import { Dialog } from "./Dialog";
import { entry, Field, FormProblems } from "./Field";
import { graphql } from "./gql";
import type { TransactionRowFragment } from "./gql/graphql";
import type { MandateInfo } from "./MandateScreen";
import { Money } from "./Money";
import { NO_ERRORS, sortErrors } from "./userErrors";

const REVERSE = graphql(`
  mutation ReverseTransaction($input: ReverseTransactionInput!) {
    reverseTransaction(input: $input) {
      transaction { id }
      userErrors { code field message }
    }
  }
`);

interface UndoProps {
  mandate: MandateInfo;
  row: TransactionRowFragment;
  close: () => void;
  done: () => void;
}

export function Undo({ mandate, row, close, done }: UndoProps) {
  const [{ fetching }, reverse] = useMutation(REVERSE);
  const [errors, setErrors] = useState(NO_ERRORS);
  const [idempotencyKey] = useState(() => crypto.randomUUID());
  const submit = async (form: FormData) => {
    const input = {
      mandateId: mandate.id,
      transactionId: row.id,
      reason: entry(form, "reason"),
      idempotencyKey,
    };
    const { data, error } = await reverse({ input });
    if (error) setErrors({ byField: {}, general: [explain(error)] });
    else if (data?.reverseTransaction.userErrors.length) setErrors(sortErrors(data.reverseTransaction.userErrors, ["reason"]));
    else done();
  };
  return (
    <Dialog title="Undo this booking?" close={close}>
      <p>
        <strong>{row.description}</strong>, <Money amount={row.amount} currency={mandate.currency} />. The booking stays in
        the history, and its opposite is written beside it. What is undone stays so.
      </p>
      <form onSubmit={(event) => { event.preventDefault(); void submit(new FormData(event.currentTarget)); }}>
        <FormProblems errors={errors} />
        <Field label="Reason" error={errors.byField["reason"]} hint="It stands in the history.">
          {(attributes) => <input {...attributes} name="reason" maxLength={1000} required />}
        </Field>
        <div className="buttons">
          <button type="button" onClick={close}>Keep it</button>
          <button type="submit" className="danger" disabled={fetching}>Undo the booking</button>
        </div>
      </form>
    </Dialog>
  );
}
