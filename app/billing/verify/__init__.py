"""The proof of the books: every stored figure of a mandate computed again from its transactions."""

from app.billing.verify.check import LedgerCheck, Mismatch
from app.billing.verify.ledger import WrongAccount, check_ledger, verify_ledger

__all__ = ["LedgerCheck", "Mismatch", "WrongAccount", "check_ledger", "verify_ledger"]
