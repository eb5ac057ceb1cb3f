"""The one call."""

from collections.abc import Sequence
from typing import Any

import jax

from optax_mtl import _checks
from optax_mtl.diagnosis import advice as advice_lib
from optax_mtl.diagnosis import costs as costs_lib
from optax_mtl.diagnosis import forms, gradients
from optax_mtl.diagnosis.findings import Diagnosis
from optax_mtl.diagnosis.statistics import statistics_of


def diagnose(
  loss_function: forms.LossFunction,
  params: Any,
  batches: Sequence[Any],
  *,
  has_aux: bool = False,
  shared: Any = None,
  costs: bool = True,
) -> Diagnosis:
  """What your model's gradients say about which method it wants.

  Differentiates every loss on several batches, and reports each task's loss,
  gradient and noise; how far the tasks conflict, and whether beyond noise;
  which leaves are shared in fact; what an update costs with each source; and
  the advice of the page "How to choose", computed from these figures.

  It looks at one point of training: look again later, for gradients that agree
  at the start may conflict at the end. It runs outside of `jit`, as it times.

  Args:
    loss_function: A function `(params, *batch) -> losses`, an array [T], a
      sequence or a dict of scalars, as for `value_and_task_grads`; a dict of
      functions by the tasks' names, as for `value_and_task_batch_grads`; or a
      pair `(trunk_fn, heads_fn)`, as for `value_and_representation_grads`.
    params: A pytree of floating-point arrays.
    batches: A list of batches, all of the same shapes: each a tuple of the
      arguments after the params, or one argument; for a dict of functions, each
      a dict of batches. Four or more, or noise is hardly known; with one it is
      not known at all, and every negative cosine counts as a conflict.
    has_aux: Whether the functions return pairs.
    shared: Which leaves are the shared trunk, as for the sources. Norms and
      cosines are over it. None: the leaves in which at least two tasks have a
      gradient in some batch.
    costs: Whether to compile and time an update with each source: a program for
      each, on the first batch.

  Returns:
    A `Diagnosis`.

  Raises:
    TypeError: `loss_function` has none of the forms, or `batches` is no list;
      and what the sources raise.
    ValueError: `batches` is empty; and what the sources raise.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> def losses(params, x):
    ...   h = params["trunk"] * x
    ...   return {"up": jnp.mean(h), "down": -jnp.mean(params["head"] * h)}
    >>> params = {"trunk": jnp.ones(()), "head": jnp.full((), 2.0)}
    >>> batches = [jnp.array([1.0, 2.0]), jnp.array([2.0, 5.0])]
    >>> found = optax_mtl.diagnose(losses, params, batches, costs=False)
    >>> found.statistics.mean_cosines[0].tolist()
    [1.0, -1.0]
    >>> [(leaf.name, leaf.tasks) for leaf in found.leaves]
    [("['head']", ('down',)), ("['trunk']", ('down', 'up'))]
    >>> found.advice[0].methods
    ('upgrad', 'conflict_free', 'mgda')
  """
  form = forms.form_of(loss_function, has_aux)
  args = forms.as_args(batches)
  _checks.check_inexact(params, "params")
  names = forms.task_names(form, params, args[0])
  measured = gradients.measure(
    form.sources["stacked"], params, args, names, shared
  )
  statistics = statistics_of(
    measured.gram, measured.counts, measured.mean_squares
  )
  found_costs: tuple[costs_lib.Cost, ...] = ()
  if costs:
    trunk = jax.tree.unflatten(jax.tree.structure(params), measured.trunk)
    found_costs = costs_lib.measure(form, params, args[0], len(names), trunk)
  figures = advice_lib.Figures(
    names,
    measured.losses,
    measured.counts,
    statistics,
    measured.leaves,
    found_costs,
  )
  return Diagnosis(
    names=tuple(names),
    losses=measured.losses,
    statistics=statistics,
    leaves=measured.leaves,
    costs=found_costs,
    advice=advice_lib.advise(figures),
  )
