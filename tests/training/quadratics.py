"""Three quadratic tasks, in JAX and in NumPy, and the methods on them.

The references are loops over float64 from the papers' formulas, which know the
tasks by their matrices and never see JAX's derivatives.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from optax_mtl import training

T = 3
_RNG = np.random.default_rng(3)
_ROOTS = _RNG.standard_normal((T, 4, 4))
#: [T, 4, 4]: `L_i = 1/2 (x - c_i)' A_i (x - c_i)`, x the params in one vector.
A = 0.3 * np.einsum("tij,tkj->tik", _ROOTS, _ROOTS) + 0.2 * np.eye(4)[None]
#: The centers c [T, 4] of training and validation batches, for three steps.
BATCHES = _RNG.standard_normal((3, T, 4))
VALIDATION = BATCHES + 0.5 * _RNG.standard_normal((3, T, 4))
X = np.array([0.5, -1.0, 2.0, 0.25])
NAMES = ("depth", "edges", "parts")


def params_of(x):
  return {"head": jnp.asarray(x[:1]), "trunk": jnp.asarray(x[1:])}


def vector(params):
  return jnp.concatenate([params["head"], params["trunk"]])


def loss_fn(params, centers):
  x = vector(params)
  matrices = jnp.asarray(A, x.dtype)
  return [
    0.5 * (x - centers[i]) @ matrices[i] @ (x - centers[i]) for i in range(T)
  ]


def named_loss_fn(params, centers):
  """With an order that is not that of the names."""
  losses = dict(zip(NAMES, loss_fn(params, centers), strict=True))
  return {name: losses[name] for name in reversed(NAMES)}


def losses_at(x, centers):
  apart = x[None] - centers
  return 0.5 * np.einsum("ti,tij,tj->t", apart, A, apart)


def gradients_at(x, centers):
  return np.einsum("tij,tj->ti", A, x[None] - centers)


def softmax(logits):
  powers = np.exp(logits - logits.max())
  return powers / powers.sum()


def derivative(function, at, step=1e-4):
  """Of a function of a vector, by central differences of fourth order.

  Their error is of the order of step⁴ and of a rounding over step, 1e-12.
  """
  rows = []
  for unit in np.eye(len(at)):
    near = function(at + step * unit) - function(at - step * unit)
    far = function(at + 2 * step * unit) - function(at - 2 * step * unit)
    rows.append((8 * near - far) / (12 * step))
  return np.stack(rows, axis=-1)


def trained(method, steps=3):
  """Params and states of some jitted steps on the batches, in one scan.

  Returns:
    The params [steps, 4] and the states, leaves [steps, ...], of NumPy.
  """
  params = params_of(jnp.asarray(X))
  state = method.init(params)

  def step(carry, batches):
    params, state = method.update(*carry, *batches)[:2]
    return (params, state), (vector(params), state)

  batches = [jnp.asarray(BATCHES[:steps])]
  if not isinstance(state, training.SamoState):
    batches.append(jnp.asarray(VALIDATION[:steps]))
  _, seen = jax.jit(lambda *carry: jax.lax.scan(step, carry, tuple(batches)))(
    params, state
  )
  return jax.tree.map(np.asarray, seen)


def built(name, fun=loss_fn, optimizer=None, **changed):
  """A method on the quadratics, with `optax.sgd` of large rates."""
  sgd = optax.sgd(0.1)
  settings = {
    "auto_lambda": {"virtual_rate": 0.2, "weight_optimizer": optax.sgd(0.05)},
    "moml": {"virtual_rate": 0.2, "weight_optimizer": optax.sgd(0.5)},
    "forum": {
      "inner_rate": 0.1,
      "inner_steps": 3,
      "steps_per_epoch": 2,
      "weight_optimizer": optax.sgd(0.5),
    },
    "samo": {"radius": 0.3},
  }[name]
  if optimizer is None:
    method = optax_mtl.equal_weighting(T)
    optimizer = optax.chain(method, sgd) if name == "samo" else sgd
  return getattr(training, name)(T, fun, optimizer, **(settings | changed))
