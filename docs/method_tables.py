"""What the tables of the README and the documentation say of a method.

The texts are in `docs/method_groups.py`; the rest is found in the registry, and
by tracing each method once.
"""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import optax_mtl
from docs.method_groups import DEVIATIONS, GROUPS, ROOMS, USERS

#: How many tasks the methods are built for to see what they read.
_NUM_TASKS = 3


def methods_by_room() -> dict[str, list[Any]]:
  """Room -> the package's methods, in the order of `ROOMS`, then by name.

  A method that was registered from elsewhere has no room, and no page here.
  """
  functions = [f for f in optax_mtl.METHODS.values() if f.info.room]
  unknown = {f.info.room for f in functions} - ROOMS.keys()
  if unknown:
    raise ValueError(
      f"Rooms {sorted(unknown)} have no heading: add them to ROOMS in "
      "docs/method_groups.py."
    )
  return {
    room: sorted(
      (f for f in functions if f.info.room == room), key=lambda f: f.info.name
    )
    for room in ROOMS
  }


@functools.cache
def built(function: Any) -> tuple[optax_mtl.Method, optax_mtl.Facts]:
  """The method with its defaults, and what it reads; traced once."""
  example = function.info.example(tuple(range(_NUM_TASKS)))
  method = function(_NUM_TASKS, **example)
  return method, optax_mtl.facts(method)


def needs(facts: optax_mtl.Facts) -> str:
  names = [f"`{name}=`" for name in facts.needs]
  names += [f"`{name}=` if there is one" for name in facts.optional]
  return ", ".join(names) or "–"


def cost(facts: optax_mtl.Facts) -> str:
  if facts.gram:
    return "T + 1"
  if facts.stacked:
    return "T"
  return str(facts.single + facts.sums) if facts.single else "1"


def _summary(function: Any) -> str:
  """The first sentence of the docstring, without its full stop."""
  first, _, _ = inspect.getdoc(function).partition("\n\n")
  return " ".join(first.split()).rstrip(".")


def _paper(info: optax_mtl.MethodInfo) -> str:
  """The authors, "et al." from three on, and the year, as a link."""
  several = re.match(r"((?:[^,&]+, )*[^,&]+ & [^,]+), ", info.paper)
  names = re.split(", | & ", several[1]) if several else []
  authors = info.paper.split(", ")[0]
  if names:
    authors = " & ".join(names) if len(names) == 2 else f"{names[0]} et al."
  found = re.search(r"\b(19|20)\d\d\b", info.paper.split(";")[0])
  return f"[{authors}{f' {found[0]}' if found else ''}]({info.url})"


#: What a method promises, in a word or two for a table.
_PROMISES = {
  "descends": "no loss rises",
  "simplex": "weights on the simplex",
  "positive_weights": "no negative weight",
  "scale_equivariant": "scales along",
}


def _promises(info: optax_mtl.MethodInfo) -> str:
  """The claims that tell methods apart; a simplex has no negative weight."""
  claims = info.claims - (
    {"positive_weights"} if "simplex" in info.claims else set()
  )
  return ", ".join(t for c, t in _PROMISES.items() if c in claims) or "–"


#: Column -> what stands in it, of a method's information and facts.
COLUMNS: dict[str, Callable[[Any], str]] = {
  "Paper": lambda f: _paper(f.info),
  "What it does": _summary,
  "Needs": lambda f: needs(built(f)[1]),
  "Passes": lambda f: cost(built(f)[1]),
  "Promises": lambda f: _promises(f.info),
  "Weights sum to": lambda f: f.info.weights_sum,
  "Differs": lambda f: (
    f"[yes]({f.info.name}.md)" if f.info.name in DEVIATIONS else "–"
  ),
  "Who has it": lambda f: USERS.get(f.info.name, "–"),
}

_OF_README = ("Paper", "What it does", "Needs", "Passes", "Promises")


def _rows(
  names: Sequence[str],
  columns: Sequence[str],
  name: Callable[[str], str],
  first: Sequence[str] = (),
) -> list[str]:
  """A table of methods; those to try first are numbered."""
  rows = [
    "| " + " | ".join(["", "Method", *columns]) + " |",
    "|---" * (2 + len(columns)) + "|",
  ]
  for method in names:
    function = optax_mtl.METHODS[method]
    number = str(first.index(method) + 1) if method in first else ""
    cells = [number, name(method), *(COLUMNS[c](function) for c in columns)]
    rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
  return rows


def check_groups() -> None:
  """Raises if a method stands in no group or in two, or a name is unknown."""
  known = {f.info.name for group in methods_by_room().values() for f in group}
  named = [name for group in GROUPS for name in group.methods]
  wrong = known ^ set(named) | {n for n in named if named.count(n) > 1}
  wrong |= (DEVIATIONS.keys() | USERS.keys()) - known
  if wrong:
    raise ValueError(
      f"{', '.join(sorted(wrong))}: docs/method_groups.py must have every "
      "method of the package in one group of GROUPS, and no other name."
    )


def grouped(
  columns: Sequence[str], name: Callable[[str], str], level: str
) -> list[str]:
  """Every method once, by the question that it answers."""
  check_groups()
  lines: list[str] = []
  for group in GROUPS:
    lines += [f"{level} {group.title}", "", group.text, ""]
    lines += _rows(group.methods, columns, name, group.first)
    lines.append("")
  return lines


def table() -> str:
  """The README's tables."""
  lines = grouped(
    _OF_README,
    lambda name: f"[`{name}`]({optax_mtl.METHODS[name].info.url})",
    "###",
  )
  return "\n".join(lines).strip()
