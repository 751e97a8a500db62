"""One run directory: the names in it, its configuration, its saved models, its mirror."""
