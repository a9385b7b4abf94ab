/** How the mandate pays: for its admins to read, for sysadmins to change. */
import { useState } from "react";
import { useMutation } from "urql";

import { explain } from "./client";
import { Field, FormProblems } from "./Field";
import { amountFault, sentence } from "./format";
import { graphql, readFragment } from "./gql";
import type { BillingModel, SettingsFieldsFragment } from "./gql/graphql";
import type { MandateInfo } from "./MandateScreen";
import { Loading, Panel, Problem } from "./Panel";
import { ADDRESS, FIELDS, toChanges, toForm, type SettingsForm } from "./settingsForm";
import { useRead } from "./useRead";
import { NO_ERRORS, sortErrors } from "./userErrors";

const FRAGMENT = graphql(`
  fragment SettingsFields on BillingSettings {
    id
    version
    billingModel
    defaultUserCredit
    warningThresholdPercent
    blockOnZeroBalance
    notifyOnWarning
    notifyEmails
    creditLimit
    allowedProviders
    billingAddress { company name street postalCode city region country vatNumber email }
  }
`);

const SETTINGS = graphql(`
  query Settings($mandateId: ID!) {
    billingSettings(mandateId: $mandateId) { ...SettingsFields }
  }
`);

const UPDATE = graphql(`
  mutation UpdateBillingSettings($input: UpdateBillingSettingsInput!) {
    updateBillingSettings(input: $input) {
      settings { ...SettingsFields }
      userErrors { code field message }
    }
  }
`);

const MODELS: BillingModel[] = ["PREPAY_USER", "PREPAY_MANDATE", "CREDIT_POSTPAY", "UNLIMITED"];
const AMOUNTS = ["defaultUserCredit", "warningThresholdPercent", "creditLimit"] as const;

export function Settings({ mandate, mayEdit }: { mandate: MandateInfo; mayEdit: boolean }) {
  const { data, error, retry } = useRead(SETTINGS, { mandateId: mandate.id });
  const settings = readFragment(FRAGMENT, data?.billingSettings) ?? null;
  return (
    <Panel title="Settings">
      {!data && (error ? <Problem error={error} retry={retry} /> : <Loading rows={8} />)}
      {data && !settings && <p className="notice">This mandate has no settings yet: its usage is counted and never refused.</p>}
      {data && <Form mandate={mandate} settings={settings} mayEdit={mayEdit} readAgain={retry} />}
    </Panel>
  );
}

interface FormProps {
  mandate: MandateInfo;
  settings: SettingsFieldsFragment | null;
  mayEdit: boolean;
  readAgain: () => void;
}

function Form({ mandate, settings, mayEdit, readAgain }: FormProps) {
  // What the edits began with: a change that somebody else makes meanwhile is told by its version.
  const [start, setStart] = useState(settings);
  const original = toForm(start);
  const [form, setForm] = useState(original);
  const [errors, setErrors] = useState(NO_ERRORS);
  const [isConflict, setIsConflict] = useState(false);
  const [wasSaved, setWasSaved] = useState(false);
  const [{ fetching }, update] = useMutation(UPDATE);
  const set = (changes: Partial<SettingsForm>) => { setForm({ ...form, ...changes }); };
  const begin = (from: SettingsFieldsFragment | null) => {
    setStart(from);
    setForm(toForm(from));
  };
  if (settings && settings.version > (start?.version ?? 0) && Object.keys(toChanges(form, original)).length === 0) begin(settings);
  const reset = () => {
    setForm(original);
    setErrors(NO_ERRORS);
    setIsConflict(false);
  };
  const submit = async () => {
    setWasSaved(false);
    const changes = toChanges(form, original);
    const faults = AMOUNTS.flatMap((name) => {
      const fault = changes[name] == null ? null : amountFault(changes[name]);
      return fault === null ? [] : [{ field: [name], message: fault }];
    });
    if (faults.length > 0) {
      setErrors(sortErrors(faults, FIELDS));
      return;
    }
    const input = { mandateId: mandate.id, expectedVersion: start?.version ?? 0, ...changes };
    const { data, error } = await update({ input });
    const userErrors = data?.updateBillingSettings.userErrors ?? [];
    setErrors(error ? { byField: {}, general: [explain(error)] } : sortErrors(userErrors, FIELDS));
    setIsConflict(userErrors.some(({ code }) => code === "VERSION_CONFLICT"));
    const saved = readFragment(FRAGMENT, data?.updateBillingSettings.settings);
    if (!error && userErrors.length === 0 && saved) {
      begin(saved);
      setWasSaved(true);
    }
  };
  const text = (name: (typeof AMOUNTS)[number], label: string, hint?: string) => (
    <Field label={label} error={errors.byField[name]} {...(hint !== undefined && { hint })}>
      {(attributes) => (
        <input {...attributes} inputMode="decimal" value={form[name]} onChange={(event) => { set({ [name]: event.target.value }); }} />
      )}
    </Field>
  );
  const check = (name: "blockOnZeroBalance" | "notifyOnWarning", label: string) => (
    <Field label={label} error={errors.byField[name]} className="check">
      {(attributes) => (
        <input {...attributes} type="checkbox" checked={form[name]} onChange={(event) => { set({ [name]: event.target.checked }); }} />
      )}
    </Field>
  );
  return (
    <form noValidate className="settings" onSubmit={(event) => { event.preventDefault(); void submit(); }}>
      <FormProblems errors={errors} />
      {isConflict && (
        <div className="buttons">
          <button type="button" onClick={() => {
            reset();
            readAgain();
          }}>Drop my changes and load the new settings</button>
        </div>
      )}
      <fieldset disabled={!mayEdit}>
        <legend>Who pays</legend>
        <Field label="Billing model" error={errors.byField["billingModel"]}>
          {(attributes) => (
            <select {...attributes} value={form.billingModel} onChange={(event) => { set({ billingModel: event.target.value as BillingModel }); }}>
              {MODELS.map((model) => <option key={model} value={model}>{sentence(model)}</option>)}
            </select>
          )}
        </Field>
        {text("defaultUserCredit", `Default credit of a user (${mandate.currency})`, "What a new account receives, once; 0 is none.")}
        {text("creditLimit", `Credit limit (${mandate.currency})`, "The most that may be owed under credit postpay; empty is no limit.")}
        {check("blockOnZeroBalance", "Stop prepaid spending when the credit is used up")}
      </fieldset>
      <fieldset disabled={!mayEdit}>
        <legend>Warnings</legend>
        {text("warningThresholdPercent", "Warn at (percent)", "Of the balance right after the latest credit, or of the credit limit.")}
        {check("notifyOnWarning", "Tell when a balance runs low")}
        <Field label="E-mail addresses, one a line" error={errors.byField["notifyEmails"]}>
          {(attributes) => (
            <textarea {...attributes} rows={3} value={form.notifyEmails} onChange={(event) => { set({ notifyEmails: event.target.value }); }} />
          )}
        </Field>
      </fieldset>
      <fieldset disabled={!mayEdit}>
        <legend>Providers</legend>
        <Field label="Allow every registered provider" className="check">
          {(attributes) => (
            <input {...attributes} type="checkbox" checked={form.allowsAll} onChange={(event) => { set({ allowsAll: event.target.checked }); }} />
          )}
        </Field>
        {!form.allowsAll && (
          <Field label="Allowed providers, one a line" error={errors.byField["allowedProviders"]} hint="None at all when empty.">
            {(attributes) => (
              <textarea {...attributes} rows={3} value={form.allowedProviders} onChange={(event) => { set({ allowedProviders: event.target.value }); }} />
            )}
          </Field>
        )}
      </fieldset>
      <fieldset disabled={!mayEdit}>
        <legend>Invoices go to</legend>
        {(Object.keys(ADDRESS) as (keyof typeof ADDRESS)[]).map((name) => (
          <Field key={name} label={ADDRESS[name]} error={errors.byField[`billingAddress.${name}`]}>
            {(attributes) => (
              <input
                {...attributes}
                value={form.billingAddress[name]}
                onChange={(event) => { set({ billingAddress: { ...form.billingAddress, [name]: event.target.value } }); }}
              />
            )}
          </Field>
        ))}
      </fieldset>
      {mayEdit && (
        <div className="buttons">
          <button type="button" onClick={reset}>Reset</button>
          <button type="submit" className="primary" disabled={fetching}>Save settings</button>
        </div>
      )}
      <p role="status" className="saved">{wasSaved && "The settings are saved."}</p>
    </form>
  );
}
