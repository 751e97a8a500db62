"""The page of a run, from what its directory holds."""
