"""What the README and the documentation say about methods, from the registry.

    python docs/generate.py          writes the README's table
    python docs/generate.py --check  fails if that table is stale

The Sphinx build calls `write_pages` for the method pages, and stops if
`undocumented` names something.
"""

import argparse
import functools
import importlib
import inspect
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

# Of this checkout, whatever is installed.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import optax_mtl  # noqa: E402
from docs.method_groups import DEVIATIONS, GROUPS, USERS  # noqa: E402
from docs.public_names import not_in  # noqa: E402
from optax_mtl import _aliases, _registry  # noqa: E402

DOCS = pathlib.Path(__file__).parent
README = DOCS.parent / "README.md"
COMMAND = "make generate"

_BEGIN = f"<!-- methods:begin (written by `{COMMAND}`) -->"
_END = "<!-- methods:end -->"

#: Room -> its heading, and what its methods have in common. In this order.
ROOMS = {
  "losses": (
    "From the losses",
    "The weights come from the losses, from other numbers of the tasks, or "
    "from nothing at all. Nothing asks for the task gradients one by one, so "
    "with the implicit source a step costs one backward pass, whatever the "
    "number of tasks.",
  ),
  "gram": (
    "From the Gram matrix",
    "The weights come from the inner products of the task gradients, their "
    "lengths or other numbers of each: with every source, that is one backward "
    "pass a task, and with the representation source one through the heads "
    "alone.",
  ),
  "gradients": (
    "From the gradients themselves",
    "The update is made from the gradients' entries, and there are no weights. "
    "A method that needs all gradients at once has them stacked, whatever the "
    "source.",
  ),
  "preference": (
    "With a preference",
    "The update takes a preference, and finds a solution that fits it on the "
    "Pareto front. `vmap` over preferences trains a whole front at once.",
  ),
}

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
      "docs/generate.py."
    )
  return {
    room: sorted(
      (f for f in functions if f.info.room == room), key=lambda f: f.info.name
    )
    for room in ROOMS
  }


@functools.cache
def _built(function: Any) -> tuple[optax_mtl.Method, optax_mtl.Facts]:
  """The method with its defaults, and what it reads; traced once."""
  example = function.info.example(tuple(range(_NUM_TASKS)))
  method = function(_NUM_TASKS, **example)
  return method, optax_mtl.facts(method)


def _needs(facts: optax_mtl.Facts) -> str:
  names = [f"`{name}=`" for name in facts.needs]
  names += [f"`{name}=` if there is one" for name in facts.optional]
  return ", ".join(names) or "–"


def _cost(facts: optax_mtl.Facts) -> str:
  if facts.gram:
    return "T + 1"
  if facts.stacked:
    return "T"
  return str(facts.single + facts.sums) if facts.single else "1"


def _summary(function: Any) -> str:
  """The first sentence of the docstring, without its full stop."""
  first, _, _ = inspect.getdoc(function).partition("\n\n")
  return " ".join(first.split()).rstrip(".")


def _link(info: optax_mtl.MethodInfo) -> str:
  """The paper as a link; the part before the first semicolon."""
  return f"[{info.paper.split(';')[0]}]({info.url})"


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
_COLUMNS: dict[str, Callable[[Any], str]] = {
  "Paper": lambda f: _paper(f.info),
  "What it does": _summary,
  "Needs": lambda f: _needs(_built(f)[1]),
  "Passes": lambda f: _cost(_built(f)[1]),
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
    cells = [number, name(method), *(_COLUMNS[c](function) for c in columns)]
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


def readme(text: str) -> str:
  """`text` with the tables between the markers as it should be."""
  if text.count(_BEGIN) != 1 or text.count(_END) != 1:
    raise ValueError(
      f"README.md must hold the markers {_BEGIN!r} and {_END!r} once each."
    )
  head, rest = text.split(_BEGIN)
  tail = rest.split(_END)[1]
  return f"{head}{_BEGIN}\n{table()}\n{_END}{tail}"


def _memories(function: Any) -> list[str]:
  """Dotted names of the public classes of the method's own module."""
  module = function.__module__
  return [
    f"{module}.{name}"
    for name, value in vars(importlib.import_module(module)).items()
    if inspect.isclass(value)
    and value.__module__ == module
    and not name.startswith("_")
  ]


def _state(function: Any) -> str:
  """What the method's state is, in words."""
  rule = _built(function)[0].rule
  if isinstance(rule, optax_mtl.UpdateRule):
    return f"`{type(rule.init({'w': jnp.ones(2)})).__name__}`, below"
  memory = rule.init()
  if memory == ():
    what = "is empty"
  elif isinstance(memory, optax_mtl.solvers.Certificate):
    what = "is a [`Certificate`](../solvers.md#certificates)"
  else:
    what = f"is a `{type(memory).__name__}`, below"
  return f"[`WeightState`](../api.md#methods), whose memory {what}"


def _passes(facts: optax_mtl.Facts) -> str:
  if facts.norms:
    return "T for the gradients' lengths, or other numbers; 1 for the update"
  if facts.gram:
    return (
      "T for the Gram matrix, and T - 1 forward-mode passes; 1 for the update"
    )
  return "T, whose gradients are stacked" if facts.stacked else _cost(facts)


def _method_page(function: Any) -> str:
  info, (_, facts) = function.info, _built(function)
  claims = [
    text for claim, text in _registry.CLAIMS.items() if claim in info.claims
  ]
  lines = [
    f"# {info.name}",
    "",
    f"Paper\n: [{info.paper}]({info.url})",
    "",
    f"Reads\n: {ROOMS[info.room][0]}",
    "",
    f"Extra args of `update`\n: {_needs(facts)}",
    "",
    f"Backward passes with the implicit source\n: {_passes(facts)}",
    "",
    f"The weights sum to\n: {info.weights_sum}",
    "",
    f"State\n: {_state(function)}",
    "",
    "Tested properties\n: "
    + ("; ".join(claims) + "." if claims else "none beyond all methods'"),
    "",
    "Where authors do something else\n: "
    + DEVIATIONS.get(info.name, "nothing that we know of"),
    "",
    "```{eval-rst}",
    f".. autofunction:: optax_mtl.{info.name}",
  ]
  for name in _memories(function):
    lines += ["", f".. autoclass:: {name}"]
  return "\n".join([*lines, "```", ""])


def _names_elsewhere() -> list[str]:
  """What other libraries call a method, as a section with a table."""
  rows = [
    f"| `{name}` | {alias.whose} | `{alias.call}` |"
    for name, found in sorted(
      _aliases.ALIASES.items(), key=lambda row: row[0].lower()
    )
    for alias in found
  ]
  return [
    "## Names elsewhere",
    "",
    "Names that differ from those here by capitals and underscores alone are",
    "left out. `optax_mtl.<name>` is an error that says the same.",
    "",
    "| Name | Whose | Here |",
    "|---|---|---|",
    *rows,
    "",
  ]


def pages() -> dict[str, str]:
  """File name under `docs/methods` -> its text."""
  lines = [
    "# Methods",
    "",
    "Every method is a function of `num_tasks` that returns an optax gradient",
    "transformation. It comes first in the chain. They stand by the question",
    "that they answer, those to try first with a number; [How to",
    "choose](../choosing.md) has the evidence for these.",
    "",
    "*Passes*: backward passes of a step with the [implicit",
    "source](../concepts.md). *Promises*: what a test holds it to; *no loss",
    "rises*, to first order; *scales along*, the update is c times as long if",
    "all gradients are. *Differs*: where the authors' code, or a library that",
    "many results come from, does something else. *Who has it*: as far as we",
    "know.",
    "",
    *grouped(tuple(_COLUMNS), lambda name: f"[`{name}`]({name}.md)", "##"),
    "## By what they read",
    "",
  ]
  result = {}
  for room, functions in methods_by_room().items():
    if not functions:
      continue
    title, text = ROOMS[room]
    names = [function.info.name for function in functions]
    links = ", ".join(f"[`{name}`]({name}.md)" for name in names)
    lines += [f"### {title}", "", text, "", links, ""]
    lines += ["```{toctree}", ":hidden:", "", *names, "```", ""]
    for function in functions:
      result[f"{function.info.name}.md"] = _method_page(function)
  lines += _names_elsewhere()
  return {"index.md": "\n".join(lines), **result}


def write_pages() -> None:
  """Writes the method pages; leaves those that are as they should be."""
  folder = DOCS / "methods"
  folder.mkdir(exist_ok=True)
  wanted = pages()
  for path in folder.glob("*.md"):
    if path.name not in wanted:
      path.unlink()
  for name, text in wanted.items():
    path = folder / name
    # Sphinx reads again what has a new date.
    if not path.exists() or path.read_text(encoding="utf-8") != text:
      path.write_text(text, encoding="utf-8")


def undocumented() -> list[str]:
  """Public names that no autodoc directive documents, under any name."""
  texts = [path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")]
  texts += pages().values()
  return not_in("\n".join(texts))


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--check", action="store_true", help="only compare")
  check = parser.parse_args(argv).check
  old = README.read_text(encoding="utf-8")
  new = readme(old)
  if old == new:
    return 0
  if check:
    print(f"The table in README.md is stale: run `{COMMAND}`.", file=sys.stderr)
    return 1
  README.write_text(new, encoding="utf-8")
  print("Wrote the table in README.md.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
