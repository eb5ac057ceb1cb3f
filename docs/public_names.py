"""What the package makes public, and so has to be documented."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

#: Modules whose public names have to be documented, beside the package.
_PUBLIC = ("pareto", "solvers", "metrics", "training", "wrappers", "plot")


def resolve(name: str) -> Any:
  """The object in a module; `pkgutil` would prefer a module of that name."""
  module, _, attribute = name.rpartition(".")
  return getattr(importlib.import_module(module), attribute)


def exports(module: ModuleType) -> Iterator[str]:
  """The names that a module makes public, as a type checker reads them.

  Those of `__all__`; without it, what the module defines, what it imports "as"
  the same name, and what a module makes public from which it imports all.
  """
  if hasattr(module, "__all__"):
    yield from module.__all__
    return
  for node in ast.parse(inspect.getsource(module)).body:
    names: list[str] = []
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      names = [node.name]
    elif isinstance(node, ast.Assign):
      names = [t.id for t in node.targets if isinstance(t, ast.Name)]
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      names = [node.target.id]
    elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
      yield from exports(importlib.import_module(node.module or ""))
    elif isinstance(node, ast.Import | ast.ImportFrom):
      names = [a.name for a in node.names if a.asname == a.name]
    yield from (name for name in names if not name.startswith("_"))


def public_names() -> list[str]:
  """Dotted names of everything public, but the modules themselves."""
  modules = [
    importlib.import_module(name)
    for name in (
      "optax_mtl",
      *(f"optax_mtl.{name}" for name in _PUBLIC),
      "optax_mtl.integrations.flax",
    )
  ]
  return sorted(
    f"{module.__name__}.{name}"
    for module in modules
    for name in exports(module)
    if not inspect.ismodule(getattr(module, name))
  )


def not_in(text: str) -> list[str]:
  """Those that no autodoc directive in the text documents, under any name."""
  directives = re.findall(r"\.\. auto\w+:: ([\w.]+)", text)
  documented = {id(resolve(name)) for name in directives}
  return [n for n in public_names() if id(resolve(n)) not in documented]
