/** Adds credit. The key is made once per form: sent again after a lost answer, nothing is booked twice. */
import { useState } from "react";
import { useMutation } from "urql";

import { explain } from "./client";
import { Dialog } from "./Dialog";
import { entry, Field, FormProblems } from "./Field";
import { amountFault } from "./format";
import { graphql } from "./gql";
import type { MandateInfo } from "./MandateScreen";
import { Loading, Problem } from "./Panel";
import { useRead } from "./useRead";
import { NO_ERRORS, sortErrors } from "./userErrors";

const PAYERS = graphql(`
  query Payers($mandateId: ID!) {
    billingSettings(mandateId: $mandateId) { id billingModel }
    mandateUsers(mandateId: $mandateId, first: 500) {
      nodes { id user { id displayName } }
    }
  }
`);

const ADD_CREDIT = graphql(`
  mutation AddCredit($input: AddCreditInput!) {
    addCredit(input: $input) {
      transaction { id }
      userErrors { code field message }
    }
  }
`);

const FIELDS = ["amount", "referenceType", "description"];

interface CreditProps {
  mandate: MandateInfo;
  userId: string | null;
  close: () => void;
}

export function Credit({ mandate, userId, close }: CreditProps) {
  const { data: payers, error: unread, retry } = useRead(PAYERS, { mandateId: mandate.id });
  const [{ fetching }, addCredit] = useMutation(ADD_CREDIT);
  const [errors, setErrors] = useState(NO_ERRORS);
  const [idempotencyKey] = useState(() => crypto.randomUUID());
  const isPersonal = payers?.billingSettings?.billingModel === "PREPAY_USER";
  const listed = payers?.mandateUsers?.nodes ?? [];
  const submit = async (form: FormData) => {
    const amount = entry(form, "amount").trim();
    const fault = amountFault(amount);
    const isNobody = isPersonal && !entry(form, "userId");
    if (fault !== null || isNobody) {
      setErrors({
        byField: { ...(isNobody && { userId: "Choose who receives it." }), ...(fault !== null && { amount: fault }) },
        general: [],
      });
      return;
    }
    const input = {
      mandateId: mandate.id,
      ...(isPersonal && { userId: entry(form, "userId") }),
      amount,
      referenceType: entry(form, "referenceType") === "ADMIN" ? "ADMIN" : "PAYMENT",
      description: entry(form, "description"),
      idempotencyKey,
    } as const;
    const { data, error } = await addCredit({ input });
    if (error) setErrors({ byField: {}, general: [explain(error)] });
    else if (data?.addCredit.userErrors.length) {
      setErrors(sortErrors(data.addCredit.userErrors, isPersonal ? ["userId", ...FIELDS] : FIELDS));
    } else close();
  };
  return (
    <Dialog title={`Add credit to ${mandate.name}`} close={close}>
      {!payers && (unread ? <Problem error={unread} retry={retry} /> : <Loading />)}
      {payers && (
        <form noValidate onSubmit={(event) => { event.preventDefault(); void submit(new FormData(event.currentTarget)); }}>
          <FormProblems errors={errors} />
          {isPersonal && (
            <Field label="For" error={errors.byField["userId"]}>
              {(attributes) => (
                <select {...attributes} name="userId" defaultValue={userId ?? ""}>
                  <option value="">Choose a user</option>
                  {userId !== null && !listed.some(({ user }) => user.id === userId) && <option>{userId}</option>}
                  {listed.map(({ id, user }) => (
                    <option key={id} value={user.id}>{user.displayName}</option>
                  ))}
                </select>
              )}
            </Field>
          )}
          <Field label={`Amount (${mandate.currency})`} error={errors.byField["amount"]}>
            {(attributes) => <input {...attributes} name="amount" inputMode="decimal" autoComplete="off" placeholder="25.00" />}
          </Field>
          <Field label="Kind" error={errors.byField["referenceType"]}>
            {(attributes) => (
              <select {...attributes} name="referenceType">
                <option value="PAYMENT">Payment received</option>
                <option value="ADMIN">Correction or gift</option>
              </select>
            )}
          </Field>
          <Field label="Description" error={errors.byField["description"]} hint="What the history shows, such as an invoice number.">
            {(attributes) => <input {...attributes} name="description" defaultValue="Manual credit" maxLength={1000} />}
          </Field>
          <div className="buttons">
            <button type="button" onClick={close}>Cancel</button>
            <button type="submit" className="primary" disabled={fetching}>Add credit</button>
          </div>
        </form>
      )}
    </Dialog>
  );
}
