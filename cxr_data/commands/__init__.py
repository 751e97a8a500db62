"""The commands of the data engine. Only this wing reads their flags."""
