"""Many runs: a grid, its processes, its cost and its table."""
