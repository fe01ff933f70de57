"""Sections of a config as typed records: every key is known, and a misspelt one is named."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Fields = TypeVar("Fields")


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
  """Raises a ValueError that names the keys of `given` that are not `known`, and their nearest neighbours."""
  known = sorted(known)
  unknown = sorted(set(given) - set(known))
  if not unknown:
    return
  near = [(name, difflib.get_close_matches(name, known, 1, 0.5)) for name in unknown]
  said = "; ".join(f"{where}.{name} is not known" + (f", did you mean {best[0]!r}?" if best else "")
                   for name, best in near)
  raise ValueError(f"{said} (known here: {', '.join(known)})")


def read(fields: type[Fields], given: Mapping[str, Any], where: str) -> Fields:
  """The NamedTuple `fields` filled from a section of the config; what is missing or unset keeps its default.

  Args:
    fields: a NamedTuple class whose fields are the section's keys.
    given: the section, e.g. config.train.
    where: its name in errors, e.g. "config.train".

  Raises:
    ValueError: a key that is not a field.
  """
  check_names(given.keys(), fields._fields, where)
  return fields(**{name: value for name, value in given.items() if value is not None})
