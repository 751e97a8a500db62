"""A setting as it is used, and the reason for it: `auto` never chooses silently."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Choice:
    """A setting in force.

    Attributes:
      flag: the flag's name.
      value: what is in force.
      why: the reason, where `auto` chose; empty where the user did.
    """

    flag: str
    value: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.flag}: {self.value}" + (f" (auto: {self.why})" if self.why else "")
