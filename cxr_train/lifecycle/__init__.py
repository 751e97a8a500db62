"""A run from its first step to its page, and what can be done with it afterwards."""
