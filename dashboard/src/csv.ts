/** Saves the API's own export, which takes the same filters as the list. */
import { refuse } from "./session";

export async function saveTransactions(token: string, mandateId: string, filter: object | null): Promise<void> {
  const query = new URLSearchParams({ mandateId, ...filter });
  const response = await fetch(`/export/transactions.csv?${query.toString()}`, {
    headers: { Authorization: `Bearer ${token}` },
  });
  if (response.status === 401) refuse(token);
  if (!response.ok) throw new Error("The file could not be made. Try again.");
  const address = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = `transactions-${mandateId}.csv`;
  link.click();
  URL.revokeObjectURL(address);
}
