/** The filters of the list of transactions, as they are typed and as the API takes them. */
import { addDays, startOfDay } from "./format";
import type { TransactionFilter } from "./gql/graphql";

export interface Typed {
  type: "" | "CREDIT" | "DEBIT";
  provider: string;
  model: string;
  /** Calendar days, the last one included. */
  from: string;
  to: string;
  search: string;
}

export const NO_FILTER: Typed = { type: "", provider: "", model: "", from: "", to: "", search: "" };

/** A year that is still being typed, such as 0202, filters nothing yet. */
const DAY = /^[12]\d{3}-\d\d-\d\d$/;

/** Null where nothing is filtered. Days are those of the mandate's time zone. */
export function toFilter(typed: Typed, timeZone: string, userId: string | null): TransactionFilter | null {
  const filter: TransactionFilter = {
    ...(typed.type && { transactionType: typed.type }),
    ...(typed.provider && { aicoreProvider: typed.provider }),
    ...(typed.model && { aicoreModel: typed.model }),
    ...(DAY.test(typed.from) && { occurredFrom: startOfDay(typed.from, timeZone) }),
    ...(DAY.test(typed.to) && { occurredTo: startOfDay(addDays(typed.to, 1), timeZone) }),
    ...(typed.search.trim() && { search: typed.search.trim() }),
    ...(userId !== null && { userId }),
  };
  return Object.keys(filter).length > 0 ? filter : null;
}
