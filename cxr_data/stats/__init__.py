"""Statistics that the audit and the evaluation share, over numpy arrays."""
