"""A search among configurations: its space, which comes next, how far each is trained, and its table."""
