"""Which files there are, whose they are, which split each belongs to, and what is left out."""
