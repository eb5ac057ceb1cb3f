"""States that are not those of the transformation that gets them.

Of another method, of other settings, or of another version of the package: a
checkpoint is kept for longer than a version. What differs is said by the names
of the fields.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

import jax

from optax_mtl._tree_checks import names_difference
from optax_mtl._version import __version__

#: What to do about a state of another version; the end of each message.
_ADVICE = (
  f"This is optax_mtl {__version__}: its changelog says which version changed "
  "which field of a state, and what an older one is to be given for it. A "
  "state comes from init of the transformation that is updated, and what is "
  "read from a file is restored into that."
)


#: How many fields are named: more than any state has, but for one that keeps
#: something for each leaf.
_MOST = 12


def paths(tree: Any) -> list[str]:
  """The leaves' names, as `inner.count`."""
  return [
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  ]


def check_memory(method: str, memory: Any, wanted: Any) -> None:
  """Raises if a memory is nested otherwise than this method's.

  Args:
    method: The method's name.
    memory: The memory that came; its arrays may be restored ones.
    wanted: A tree of the structure that it should have.

  Raises:
    TypeError: It is of another method, of other settings, or another version's.
  """
  found, structure = jax.tree.structure(memory), jax.tree.structure(wanted)
  if found == structure:
    return
  differs = names_difference(paths(memory), paths(wanted), _MOST)
  raise TypeError(
    f"{method} was given the state of another method, of other settings or of "
    "another version of the package: its memory "
    f"{differs or f'is {found}, and not {structure}'}. {_ADVICE}"
  )


def check_kind(owner: str, state: Any, kind: type[Any]) -> None:
  """Raises if a wrapper's state is not of its type.

  Args:
    owner: What errors call the wrapper.
    state: The state that came.
    kind: The type, a `NamedTuple`.

  Raises:
    TypeError: It is of another type.
  """
  if not isinstance(state, kind):
    refuse(owner, state, kind)


def refuse(owner: str, state: Any, kind: type[Any]) -> NoReturn:
  """Raises for a state that is of another type than it has to be."""
  fields: Sequence[str] | None = getattr(state, "_fields", None)
  if isinstance(state, Mapping):
    fields = [str(name) for name in cast(Mapping[Any, Any], state)]
  differs = ""
  if fields is not None:
    differs = names_difference(fields, getattr(kind, "_fields", ()), _MOST)
  came = type(state).__name__ + (f", which {differs}" if differs else "")
  article = "an" if kind.__name__[0] in "AEIOU" else "a"
  raise TypeError(
    f"{owner} needs its state, {article} {kind.__name__} as tx.init(params) "
    f"makes it, got {came}: the state of a chain goes to the chain. {_ADVICE}"
  )
