"""The proof of the books: every stored figure of a mandate computed again from its transactions."""

from app.billing.verify.check import LedgerCheck, Mismatch
from app.billing.verify.drift import DriftCheck
from app.billing.verify.ledger import WrongAccount, check_ledger, verify_ledger

__all__ = ["DriftCheck", "LedgerCheck", "Mismatch", "WrongAccount", "check_ledger", "verify_ledger"]
