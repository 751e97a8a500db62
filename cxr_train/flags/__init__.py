"""The flags that several training commands share."""
