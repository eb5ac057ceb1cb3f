"""What users got wrong: the code, and what they are told; a page shows it too.

`test_slips.py` runs each row, and `docs/generate.py` writes the page "Mistakes"
of them with the words that came. What is accepted, since nobody can know it
while tracing, has what then happens in the place of an error.
"""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import optax_mtl


@dataclasses.dataclass(frozen=True)
class Slip:
  """A mistake.

  Attributes:
    title: What was done, in a few words.
    code: Python, after `PRELUDE`.
    error: What is raised, or a warning; None: it is accepted.
    match: A pattern that the words contain.
    holds: Where it is accepted: an expression that holds afterwards.
    why: Where it is accepted: what happens then, and what to do.
  """

  title: str
  code: str
  error: type[Exception] | None = None
  match: str = ""
  holds: str = ""
  why: str = ""


#: What all rows begin with.
PRELUDE = """\
params = {"x": jnp.ones(3), "f": jnp.ones(2)}

def loss_fn(params):
  x, f = params["x"], params["f"]
  return {"a": jnp.sum(x**2), "b": jnp.sum(x) + f[0]}

mgda = optax_mtl.mgda(num_tasks=2)
losses, grads = optax_mtl.value_and_task_grads(loss_fn)(params)
_, implicit = optax_mtl.value_and_task_grads(loss_fn, source="implicit")(params)

def update(tx, grads=grads, **extra):
  return tx.update(grads, tx.init(params), params, **extra)
"""

GROUPS: dict[str, list[Slip]] = {
  "The loss function": [
    Slip(
      "A count, an accuracy or another integer among the losses",
      "optax_mtl.value_and_task_grads(\n"
      '  lambda p: {"ce": jnp.sum(p), "right": jnp.sum(p > 0)})(jnp.ones(2))',
      TypeError,
      r"losses\['right'\] .*has no gradient",
    ),
    Slip(
      "One loss, already summed",
      "optax_mtl.value_and_task_grads(lambda p: jnp.sum(p))(jnp.ones(2))",
      ValueError,
      "losses",
    ),
    Slip(
      "`has_aux=True` forgotten",
      "optax_mtl.value_and_task_grads(\n"
      '  lambda p: (loss_fn(p), {"accuracy": 0.5}))(params)',
      TypeError,
      "has_aux=True",
    ),
    Slip(
      "A mask that matches no leaf",
      "optax_mtl.value_and_task_grads(\n"
      '  loss_fn, shared={"x": False, "f": False})(params)',
      ValueError,
      "shared",
    ),
    Slip(
      "A whole module with functions among its leaves as params",
      "optax_mtl.value_and_task_grads(loss_fn)(\n"
      '  {"x": jnp.ones(3), "f": jnp.ones(2), "activation": jax.nn.relu})',
      TypeError,
      "eqx.partition",
    ),
  ],
  "The gradients": [
    Slip(
      "A gradient for each loss, as `jax.jacrev` gives them",
      "update(mgda, jax.jacrev(loss_fn)(params))",
      ValueError,
      "jacrev",
    ),
    Slip(
      "The gradient of the summed loss",
      "update(mgda, jax.grad(lambda p: sum(loss_fn(p).values()))(params))",
      ValueError,
      "must start with 2",
    ),
    Slip(
      "Gradients for another number of tasks",
      "update(optax_mtl.mgda(num_tasks=3))",
      ValueError,
      "num_tasks=3",
    ),
    Slip(
      "Implicit gradients into an optimizer, before the method",
      "update(optax.chain(optax.scale_by_adam(), mgda), implicit)",
      TypeError,
      "put an optax_mtl method before every other",
    ),
    Slip(
      "Implicit gradients into `optax.MultiSteps`",
      "tx = optax.chain(mgda, optax.sgd(0.1))\n"
      "update(optax.MultiSteps(tx, every_k_schedule=2), implicit)",
      TypeError,
      "optax_mtl.accumulate in place of optax.MultiSteps",
    ),
    Slip(
      "Implicit gradients into a norm",
      "optax.tree.norm(implicit)",
      TypeError,
      "stands for 2 gradients",
    ),
  ],
  "The chain": [
    Slip(
      "`accumulate` around the optimizer alone",
      "optax_mtl.accumulate(optax.adam(0.1), 2, every_k=4).init(params)",
      TypeError,
      "accumulate goes around a method",
    ),
    Slip(
      "A method inside of `per_task`",
      "optax_mtl.per_task(mgda, 2)",
      TypeError,
      "inside of per_task",
    ),
    Slip(
      "A method after a method",
      "update(optax.chain(optax_mtl.equal_weighting(2), mgda))",
      ValueError,
      "has to come first in the chain",
    ),
    Slip(
      "`every_k` that is no whole number",
      "optax_mtl.accumulate(mgda, 2, every_k=2.5)",
      ValueError,
      "every_k",
    ),
    Slip(
      "The method after Adam",
      "updates, _ = update(optax.chain(optax.scale_by_adam(), mgda))",
      holds="jnp.all(jnp.abs(updates['x']) > 0)",
      why="The rows are in a plain tree, and Adam takes each for a param: it "
      "has one step count for all tasks, moments of an absent task fade, "
      "and its state changes shape, so that `lax.scan` refuses it. Put the "
      "method first; for moments of each task, "
      "`per_task(optax.scale_by_adam(), num_tasks)`.",
    ),
    Slip(
      "Frozen leaves by `optax.partition`",
      'parts = {"on": optax.chain(mgda, optax.sgd(0.1)), '
      '"off": optax.set_to_zero()}\n'
      'updates, _ = update(optax.partition(parts, {"x": "on", "f": "off"}))',
      holds="updates['f'].shape == (2, 2)",
      why="No method sees the frozen leaves, and `optax.apply_updates` "
      "broadcasts the params to their shape. Freeze after the method: "
      "`chain(method, masked(set_to_zero(), mask), ...)`. "
      "`optax_mtl.integrations.flax.TrainState` refuses such updates.",
    ),
    Slip(
      "`init` with the gradients in the place of the params",
      "tx = optax.chain(mgda, optax.adam(0.1))\n"
      "updates, _ = tx.update(grads, tx.init(grads), params)",
      holds="updates['f'].shape == (2, 2)",
      why="Adam's moments have the gradients' shapes then, and so have its "
      "updates. `init` takes the params, as everywhere in optax.",
    ),
    Slip(
      "`optax.contrib.sam` around one method",
      "updates, _ = update(contrib.sam(optax.chain(mgda, optax.sgd(0.1)), "
      "optax.sgd(0.1)))",
      holds="updates['f'].shape == (2, 2)",
      why="Its second optimizer sees the stacked gradients as well: it begins "
      "with a method too, `contrib.sam(chain(mgda, sgd), "
      "chain(equal_weighting, sgd))`.",
    ),
  ],
  "The update": [
    Slip(
      "`losses=` forgotten",
      "update(optax_mtl.dwa(2, steps_per_epoch=10))",
      TypeError,
      "needs losses=",
    ),
    Slip(
      "An argument misspelt",
      "update(mgda, actve=jnp.array([True, False]))",
      UserWarning,
      "takes active=, .* has actve=",
    ),
    Slip(
      "`counts=` of `accumulate` misspelt",
      "update(optax_mtl.accumulate(mgda, 2, 4), count=jnp.array([3, 1]))",
      UserWarning,
      "accumulate takes counts=, .* has count=",
    ),
    Slip(
      "Values for tasks of other names",
      'tx = optax_mtl.fixed_weighting(2, {"a": 1.0, "c": 2.0})\n'
      "update(tx, losses=losses)",
      ValueError,
      "for the tasks a, c, but the tasks are a, b",
    ),
    Slip(
      "Weights for a method that has its own",
      "update(mgda, weights=jnp.array([1.0, 2.0]))",
      TypeError,
      "weights",
    ),
    Slip(
      "A mask of numbers",
      "update(mgda, active=jnp.array([1.0, 0.0]))",
      TypeError,
      "bool",
    ),
    Slip(
      "Indicators in percent",
      "update(optax_mtl.dtp(2), kpis=jnp.array([85.0, 20.0]))",
      ValueError,
      "Divide percentages",
    ),
    Slip(
      "Negative losses where ratios of losses are compared",
      "tx = optax_mtl.dwa(2, steps_per_epoch=10)\n"
      "update(tx, losses=jnp.array([-1.0, 2.0]))",
      ValueError,
      "must not be negative",
    ),
    Slip(
      "The same under `jit`, where values are not known",
      "tx = optax_mtl.dwa(2, steps_per_epoch=10)\n"
      "updates, state = jax.jit(lambda rows: update(tx, losses=rows))(\n"
      "  jnp.array([-1.0, 2.0]))",
      holds="state.weights.tolist() == [1, 1]",
      why="A task whose average is negative counts as one whose loss stands "
      "still. Each method's page says what it does.",
    ),
    Slip(
      "A preference of zeros or negative numbers",
      "optax_mtl.upgrad(2, preference=[0.0, 0.0])",
      ValueError,
      "not all zero",
    ),
    Slip(
      "A state of another number of tasks",
      "mgda.update(grads, optax_mtl.mgda(num_tasks=1).init(params), params)",
      ValueError,
      "that of another number of tasks",
    ),
    Slip(
      "A state of another method",
      "mgda.update(grads, optax_mtl.gradnorm(2).init(params), params)",
      TypeError,
      "the state of another method",
    ),
    Slip(
      "A NaN in one task's gradient",
      "bad = jax.tree.map(lambda g: g.at[0].set(jnp.nan), grads)\n"
      "updates, _ = update(mgda, bad)",
      holds="bool(jnp.isnan(updates['x']).all())",
      why="Nothing is lost in silence: the update is NaN. "
      "`drop_nonfinite(method)` goes on without that task, "
      "`skip_nonfinite(tx)` leaves out the step.",
    ),
    Slip(
      "Gradients whose squares overflow",
      "large = jax.tree.map(lambda g: 1e15 * g, grads)\n"
      "(_, found), (_, right) = update(mgda, large), update(mgda)",
      holds="bool(jnp.allclose(found.weights, right.weights, rtol=1e-5))",
      why="From 1e-15 to 1e15 times ordinary sizes all methods are right that "
      "claim scale equivariance, though squares leave float32; 1e25 times, "
      "they leave it on the way, and the update may be zero, or NaN.",
    ),
  ],
}


@functools.cache
def _begun() -> dict[str, Any]:
  """What is there after the prelude, which runs once for all rows."""
  names: dict[str, Any] = {
    "contrib": contrib,
    "jax": jax,
    "jnp": jnp,
    "optax": optax,
    "optax_mtl": optax_mtl,
  }
  exec(PRELUDE, names)
  return names


def said(slip: Slip) -> str | None:
  """Runs a row: the words of its error or warning, None where there is none."""
  names = dict(_begun())
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
      exec(slip.code, names)
    except Exception as error:
      if slip.error is None or not isinstance(error, slip.error):
        raise
      return str(error)
  if slip.error is not None:
    return str(caught[0].message) if caught else None
  if not eval(slip.holds, names):
    raise AssertionError(f"{slip.title}: not {slip.holds}")
  return None
