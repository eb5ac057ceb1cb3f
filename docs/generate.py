"""What the README and the documentation say about methods, from the registry.

    python docs/generate.py          writes the README's table
    python docs/generate.py --check  fails if that table is stale

The Sphinx build calls `write_pages` for the method pages, and stops if
`undocumented` names something.
"""

import argparse
import importlib
import inspect
import pathlib
import sys
from typing import Any

import jax.numpy as jnp

# Of this checkout, whatever is installed.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import optax_mtl  # noqa: E402
from docs.method_groups import DEVIATIONS, ROOMS  # noqa: E402
from docs.method_tables import (  # noqa: E402
  COLUMNS,
  built,
  cost,
  grouped,
  methods_by_room,
  needs,
  table,
)
from docs.public_names import not_in  # noqa: E402
from optax_mtl import _aliases, _registry  # noqa: E402

DOCS = pathlib.Path(__file__).parent
README = DOCS.parent / "README.md"
COMMAND = "make generate"

_BEGIN = f"<!-- methods:begin (written by `{COMMAND}`) -->"
_END = "<!-- methods:end -->"


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
  rule = built(function)[0].rule
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
  return "T, whose gradients are stacked" if facts.stacked else cost(facts)


def _method_page(function: Any) -> str:
  info, (_, facts) = function.info, built(function)
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
    f"Extra args of `update`\n: {needs(facts)}",
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
    *grouped(tuple(COLUMNS), lambda name: f"[`{name}`]({name}.md)", "##"),
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
