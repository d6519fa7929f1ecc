"""The paper's claims as functions, and verdicts on them."""
