"""The synthetic sample: drawn pictures in the layout of a real dataset."""
