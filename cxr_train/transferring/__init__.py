"""Transfer to a hospital that was not seen: which runs, how each is chosen, and what the tests say."""
