"""What is said of a finding in a picture.

Uncertain: the report or its reader hesitates, and training may count it as either. Unknown: nothing is said
of the finding, and it is always masked.
"""

PRESENT, ABSENT, UNCERTAIN, UNKNOWN = FINDING_VALUES = (1, 0, -1, -2)
VALUE_NAMES = ("present", "absent", "uncertain", "unknown")
"""Of `FINDING_VALUES`, in their order."""
