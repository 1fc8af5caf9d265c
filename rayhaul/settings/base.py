"""What every group of settings is: a frozen value that takes no unknown field. Lists are texts with commas between."""

from typing import Any

from pydantic import BaseModel, ConfigDict

MIB = 1024 * 1024


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def split_commas(value: Any) -> Any:
    """Return the entries of a text that is a list; what is a list already is left as it is."""
    if isinstance(value, str):
        return tuple(entry.strip() for entry in value.split(",") if entry.strip())
    if isinstance(value, int):
        return (value,)
    return value
