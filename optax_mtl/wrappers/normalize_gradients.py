"""A method on gradients of one length."""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._normalization import (
  NORMALIZATIONS,
  Normalization,
  divisors,
)
from optax_mtl._rule import Rule, UpdateRule, WeightRule
from optax_mtl._step import RefusedArg, Step, WatchedArgs
from optax_mtl._transformation import Method
from optax_mtl.sources.around import MeasuredTaskGradients
from optax_mtl.sources.scaled import ScaledTaskGradients
from optax_mtl.wrappers._wrapped import change_rule

_Transformation = TypeVar("_Transformation", bound=optax.GradientTransformation)

_REFUSED = RefusedArg(
  "normalize_gradients divides the gradients by lengths of their own batch, "
  "and inner products with those of a second one would have no meaning. Take a "
  "method that reads one batch."
)


def normalize_gradients(
  inner: _Transformation, by: Normalization = "l2"
) -> _Transformation:
  """Shows a method each task's gradient divided by its length.

  The method weighs, projects or averages `g_i / c_i`, where `c_i` is the
  gradient's norm, its loss, or the product of both: what differs in scale alone
  looks alike. The update is the method's, `Σ w_i g_i / c_i`; its length is that
  of unit gradients, so choose the learning rate for it, or put Adam after. The
  weights in the state are those on `g_i` itself, `w_i / c_i`.

  Norms are those over the trunk, where there is one; the other leaves get what
  they get without this wrapper. They are read off the Gram matrix, which the
  method then shares; a method that does not ask for it, as `dwa`, pays it, and
  by `"loss"` none does. Of `refresh_every` and this one, the inner one goes by
  the outer one: `refresh_every(normalize_gradients(method), k)` computes norms
  where it computes weights.

  Around `mgda` it is `mgda(normalize=by)`. A task whose gradient or loss is
  zero, and one that is absent, is left as it is; a gradient that is not finite
  stays so.

  Args:
    inner: A method of this package, or other wrappers around one; the rest of
      the chain comes after.
    by: `c_i`: "l2", the norm; "loss"; or "loss+", their product. Default "l2".

  Returns:
    The transformation, with the same state. Its update needs `losses` [T] where
    they count.

  Raises:
    TypeError: `inner` is no method, the update is called without `losses`, or
      the method reads a second batch.
    ValueError: `by` is unknown, or a loss that counts is negative (NaN weights
      under `jit`, where its value is not known).

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.normalize_gradients(optax_mtl.equal_weighting(2))
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[100.0, 0.0], [0.0, 0.5]])
    >>> updates, state = tx.update(grads, state)
    >>> print(updates, state.weights)
    [1. 1.] [0.01 2.  ]

  References:
    The three lengths are those of Sener & Koltun, `Multi-Task Learning as
    Multi-Objective Optimization <https://arxiv.org/abs/1810.04650>`_, NeurIPS
    2018, whose code offers them for MGDA.
  """
  _checks.check_choice("by", by, NORMALIZATIONS)

  def scaled(step: Step) -> tuple[Step, jax.Array]:
    """The step with scaled gradients, and the scales [T]."""
    gradients = step.gradients
    norms = jnp.ones((gradients.num_tasks,), solver_dtype())
    if by != "loss":
      gradients = MeasuredTaskGradients(gradients)
      norms = jnp.sqrt(gradients.squared_norms())
    scales = 1 / divisors(step, by, norms, f"normalize_gradients(by={by!r})")
    extra = step.extra
    if step.has("second_grads"):
      extra = WatchedArgs.changed(extra, second_grads=_REFUSED)
    gradients = ScaledTaskGradients(gradients, scales)
    return dataclasses.replace(step, gradients=gradients, extra=extra), scales

  def change(method: Method) -> Rule:
    rule = method.rule
    if isinstance(rule, UpdateRule):

      def update(step: Step, memory: Any) -> tuple[Any, Any]:
        return rule.update(scaled(step)[0], memory)

      return UpdateRule(update, rule.init)

    def weigh(step: Step, memory: Any) -> tuple[jax.Array, Any]:
      seen, scales = scaled(step)
      weights, memory = rule.weigh(seen, memory)
      return weights.astype(scales.dtype) * scales, memory

    return WeightRule(weigh, rule.init, rule.observe, rule.max_norm)

  return change_rule(inner, change, "normalize_gradients")
