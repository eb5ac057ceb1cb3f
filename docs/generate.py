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
import re
import sys

import optax_mtl

DOCS = pathlib.Path(__file__).parent
README = DOCS.parent / "README.md"
COMMAND = "make generate"

_BEGIN = f"<!-- methods:begin (written by `{COMMAND}`) -->"
_END = "<!-- methods:end -->"

#: Family -> its heading, and what its methods have in common. In this order.
FAMILIES = {
  "fixed": ("Fixed weights", "The weights are known before training."),
  "loss": (
    "From the losses",
    "The weights come from the losses, or from other numbers of the tasks. "
    "Nothing asks for the task gradients one by one, so with the implicit "
    "source a step costs one backward pass, whatever the number of tasks.",
  ),
  "gram": (
    "From the Gram matrix",
    "The weights come from the inner products of the task gradients: with "
    "every source, that is one backward pass a task, and with the "
    "representation source one through the heads alone.",
  ),
  "pareto": (
    "With a preference",
    "The update takes a preference, and finds a solution that fits it on the "
    "Pareto front. `vmap` over preferences trains a whole front at once.",
  ),
}

#: Modules whose public names have to be documented.
_PUBLIC = ("methods", "pareto", "solvers", "metrics", "wrappers", "plot")


def methods_by_family():
  """Family -> functions, in the order of `FAMILIES`."""
  functions = optax_mtl.METHODS.values()
  unknown = {f.info.family for f in functions} - FAMILIES.keys()
  if unknown:
    raise ValueError(
      f"Families {sorted(unknown)} have no heading: add them to FAMILIES in "
      "docs/generate.py."
    )
  return {
    family: [f for f in functions if f.info.family == family]
    for family in FAMILIES
  }


def _needs(info) -> str:
  return ", ".join(f"`{name}=`" for name in info.needs) or "–"


def _cost(info) -> str:
  return "T + 1" if info.uses_gram else "1"


def _summary(function) -> str:
  """The first sentence of the docstring, without its full stop."""
  return inspect.getdoc(function).splitlines()[0].rstrip(".")


def _link(info) -> str:
  """The paper as a link; the part before the first semicolon."""
  return f"[{info.paper.split(';')[0]}]({info.url})"


def _rows(functions, name) -> list[str]:
  rows = [
    "| Method | What it does | Needs | Backward passes | Weights sum to |",
    "|---|---|---|---|---|",
  ]
  for function in functions:
    info = function.info
    cells = (
      name(info),
      _summary(function),
      _needs(info),
      _cost(info),
      info.weights_sum,
    )
    rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
  return rows


def table() -> str:
  """The README's table: one row a method, families one after another."""
  functions = [f for group in methods_by_family().values() for f in group]
  return "\n".join(
    _rows(functions, lambda info: f"[`{info.name}`]({info.url})")
  )


def readme(text: str) -> str:
  """`text` with the table between the markers as it should be."""
  if text.count(_BEGIN) != 1 or text.count(_END) != 1:
    raise ValueError(
      f"README.md must hold the markers {_BEGIN!r} and {_END!r} once each."
    )
  head, rest = text.split(_BEGIN)
  tail = rest.split(_END)[1]
  return f"{head}{_BEGIN}\n{table()}\n{_END}{tail}"


def _states(function) -> list[type]:
  """The public classes of the method's own module."""
  module = importlib.import_module(function.__module__)
  return [
    value
    for name, value in vars(module).items()
    if inspect.isclass(value)
    and value.__module__ == function.__module__
    and not name.startswith("_")
  ]


def _package(obj) -> str:
  """The public package through which a class of a method file is reached."""
  package = obj.__module__.rpartition(".")[0]
  if not hasattr(importlib.import_module(package), obj.__name__):
    return obj.__module__
  return package


def _method_page(function) -> str:
  info = function.info
  claims = {
    claim: text
    for claim, text in optax_mtl._base.CLAIMS.items()
    if claim in info.claims
  }
  lines = [
    f"# {info.name}",
    "",
    f"Paper\n: [{info.paper}]({info.url})",
    "",
    f"Family\n: {FAMILIES[info.family][0]}",
    "",
    f"Extra args of `update`\n: {_needs(info)}",
    "",
    "Backward passes with the implicit source\n: "
    + (
      "T for the Gram matrix, and T - 1 forward-mode passes; 1 for the update"
      if info.uses_gram
      else "1"
    ),
    "",
    f"The weights sum to\n: {info.weights_sum}",
    "",
    "Tested properties\n: "
    + (
      "; ".join(claims.values()) + "." if claims else "none beyond all methods'"
    ),
    "",
    "```{eval-rst}",
    f".. autofunction:: optax_mtl.{info.name}",
  ]
  for state in _states(function):
    lines += ["", f".. autoclass:: {_package(state)}.{state.__name__}"]
  return "\n".join([*lines, "```", ""])


def pages() -> dict[str, str]:
  """File name under `docs/methods` -> its text."""
  lines = [
    "# Methods",
    "",
    "Every method is a function of `num_tasks` that returns an optax",
    "gradient transformation. It comes first in the chain. The number of",
    "backward passes is that of the [implicit source](../concepts.md); which",
    "methods suit which problem is the matter of",
    "[How to choose](../choosing.md).",
    "",
  ]
  result = {}
  for family, functions in methods_by_family().items():
    if not functions:
      continue
    title, text = FAMILIES[family]
    lines += [f"## {title}", "", text, ""]
    lines += _rows(functions, lambda info: f"[`{info.name}`]({info.name}.md)")
    lines += ["", "```{toctree}", ":hidden:", ""]
    lines += [function.info.name for function in functions]
    lines += ["```", ""]
    for function in functions:
      result[f"{function.info.name}.md"] = _method_page(function)
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


def _resolve(name: str):
  """The object in a module; `pkgutil` would prefer a module of that name."""
  module, _, attribute = name.rpartition(".")
  return getattr(importlib.import_module(module), attribute)


def public_names() -> list[str]:
  """Dotted names of everything public, but the modules themselves."""
  modules = [optax_mtl]
  modules += [
    importlib.import_module(f"optax_mtl.{name}")
    for name in (*_PUBLIC, "integrations.flax")
  ]
  names = []
  for module in modules:
    public = getattr(module, "__all__", None)
    if public is None:
      # Without __all__: what a module defines, or a package imports, itself.
      public = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "").startswith(module.__name__)
      ]
    names += [
      f"{module.__name__}.{name}"
      for name in public
      if not inspect.ismodule(getattr(module, name))
    ]
  return sorted(names)


def undocumented() -> list[str]:
  """Public names that no autodoc directive documents, under any name."""
  texts = [path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")]
  texts += pages().values()
  directives = re.findall(r"\.\. auto\w+:: ([\w.]+)", "\n".join(texts))
  documented = {id(_resolve(name)) for name in directives}
  return [n for n in public_names() if id(_resolve(n)) not in documented]


def main(argv=None) -> int:
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
