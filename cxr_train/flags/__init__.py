"""The flags that several training commands share, and the start of a run from them."""
