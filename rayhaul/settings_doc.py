"""Writes docs/settings.md from the model: `python -m rayhaul.settings_doc > docs/settings.md`."""

import sys
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rayhaul.settings import Settings

_HEAD = """# Settings

Generated from `rayhaul/settings/` by `make docs`. Set them in the environment, in a `.env` file in the working
directory, or in a YAML file named by `RAYHAUL_CONFIG` (groups as mappings); the environment wins.

| variable | default | what it does |
| --- | --- | --- |
"""


def settings_table() -> str:
    """Return the document: one row a setting, in the model's order."""
    return _HEAD + "".join(_rows(Settings, "RAYHAUL_"))


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _rows(field.annotation, f"{variable}__")
        else:
            yield f"| `{variable}` | {_default(field)} | {field.description} |\n"


def _default(field: FieldInfo) -> str:
    if field.default in (None, "", ()):
        return "empty"
    if isinstance(field.default, tuple):
        return f"`{','.join(map(str, field.default))}`"
    return f"`{field.default}`"


if __name__ == "__main__":
    sys.stdout.write(settings_table())
