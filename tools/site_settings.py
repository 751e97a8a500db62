"""Shows settings on the site's page of the API as what they are: a default, and what `--help` says of them.

A griffe extension, named in mkdocs.yml. Without it a field appears as `setting(360, "Height ...")`.
"""

import importlib
import re
from typing import Any

import griffe

from cxr_data.core.settings import settings_of


class Settings(griffe.Extension):
    """Gives each field that is declared by `setting` or `required` its default, and its help as docstring."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Replace the declarations of one class."""
        if not any(_is_declaration(member) for member in cls.members.values()):
            return
        declared = getattr(importlib.import_module(cls.module.path), cls.name)
        for field, setting in settings_of(declared):
            if field.name not in cls.members:
                continue  # It is inherited, and shown where it was declared.
            text = re.sub(r"[\[\]<*]", r"\\\g<0>", setting.help)  # Plain words, not Markdown.
            if setting.choices:
                text += f" One of {', '.join(f'`{choice}`' for choice in setting.choices)}."
            attribute = cls.members[field.name]
            attribute.value = None if setting.required else repr(setting.default)
            attribute.docstring = griffe.Docstring(text, parent=attribute, parser="google")


def _is_declaration(member: griffe.Object | griffe.Alias) -> bool:
    value = getattr(member, "value", None) if member.is_attribute else None
    return isinstance(value, griffe.ExprCall) and str(value.function) in ("setting", "required")
