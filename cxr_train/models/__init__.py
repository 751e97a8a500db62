"""The networks, what of them is trained, and what they cost in memory and operations."""
