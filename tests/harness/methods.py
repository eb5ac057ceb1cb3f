"""The methods under test: the package's, and those that tests write."""

from collections.abc import Sequence
from typing import Any

from contract import own_methods

import optax_mtl
from optax_mtl import _registry

#: Three tasks: the fewest with pairs that differ. No axis of a param has this
#: length, so that a leaf of a state is per task if its first axis has.
NUM_TASKS = 3
TASKS = tuple(range(NUM_TASKS))

#: The methods that a test writes outside of the package. What goes over
#: `optax_mtl.METHODS` elsewhere must not meet them.
OWN = {name: _registry.METHODS.pop(name) for name in own_methods.NAMES}
PACKAGE = dict(optax_mtl.METHODS)
_FUNCTIONS = PACKAGE | OWN
#: The package's methods.
NAMES = sorted(PACKAGE)

#: One method for each kind of rule: what a rule cannot see, as heads, dropping
#: or what follows in the chain, is tested on these alone.
KINDS = {
  "losses, memory": "dwa",
  "gram, memory": "gradnorm",
  "gram, key": "pcgrad",
  "solved, limited norm": "nash_mtl",
  "preference": "pareto_mtl",
  "update, stacked": "largest_entry",
  "update, one gradient": "bloop",
}
every_kind = list(KINDS.values())


def build(name: str, tasks: Sequence[int] = TASKS, **options: Any) -> Any:
  """The method `name` for these task numbers, as its row's example says."""
  function = _FUNCTIONS[name]
  return function(len(tasks), **function.info.example(tasks), **options)


def weighs(name: str) -> bool:
  """Whether the method has weights: if not, it makes an update."""
  return not isinstance(build(name).rule, optax_mtl.UpdateRule)


#: Methods in which the tasks' order counts, since each is compared with the
#: next one: a permutation of the tasks is another problem.
ORDERED = ("ldc_mtl",)

#: All methods that weigh, and all that make an update from the gradients.
WEIGHING = [n for n in NAMES if weighs(n)] + ["even_fall", "two_batches"]
UPDATING = [n for n in NAMES if not weighs(n)] + ["largest_entry"]
weighing_kinds = [n for n in every_kind if n not in UPDATING]


def info(name: str) -> optax_mtl.MethodInfo:
  return _FUNCTIONS[name].info


def claims(name: str) -> frozenset[str]:
  return info(name).claims


def claiming(claim: str, names: Sequence[str]) -> list[str]:
  """Those of the names that make the claim; that none does is an error."""
  found = [name for name in names if claim in claims(name)]
  assert found, f"no method claims {claim}"
  return found


def registered(function: Any, **row: Any) -> Any:
  """The method that `optax_mtl.method` makes of a test's own rule."""
  row = {"paper": "p", "url": "u", "weights_sum": "1"} | row
  return optax_mtl.method(**row)(function)
