"""A conversion that can be killed at any moment: plan, workers, ledger, resume, finish."""
