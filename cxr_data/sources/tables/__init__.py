"""Tables of findings, a module for each format: what the columns mean, and what a blank says."""
