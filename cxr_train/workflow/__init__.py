"""From a folder of images to the page of a run: the defaults, the plan, and its steps."""
