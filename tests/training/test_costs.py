"""FLOPs of the steps, against those of the passes that they are.

Of the programs as they are handed to XLA, which dead code has left already:
compiled, these count the same within 0.3 %, and take ten times as long.
"""

import functools

import jax
import jax.numpy as jnp
import optax

import optax_mtl
from optax_mtl import training

T, WIDTH = 2, 64
SHARED = {"heads": False, "trunk": True}
X = jnp.ones((128, WIDTH))


def loss_fn(params, x):
  """Heads as heavy as the trunk, so that it shows who runs whose."""
  z = jnp.tanh(jnp.tanh(x @ params["trunk"][0]) @ params["trunk"][1])
  return [
    jnp.mean(jnp.tanh(z @ head[0]) @ head[1]) ** 2 for head in params["heads"]
  ]


def params_of():
  pair = [jnp.ones((WIDTH, WIDTH)), jnp.ones((WIDTH, WIDTH))]
  return {"heads": [list(pair) for _ in range(T)], "trunk": pair}


def flops(function, *args):
  return jax.jit(function).lower(*args).cost_analysis()["flops"]


def step_flops(method, *batches):
  params = params_of()
  return flops(method.update, params, method.init(params), *batches)


@functools.cache
def plain():
  summed = lambda params, x: sum(loss_fn(params, x))  # noqa: E731
  return flops(jax.value_and_grad(summed), params_of(), X)


def test_auto_lambda_is_exact_for_less_than_the_difference_costs():
  """Two forward and three backward passes, and one in forward mode.

  A backward pass is two forward ones here, and the one in forward mode, which
  starts from what the forward pass left, is at most as much: 10/3 of a plain
  step. The finite difference takes two forward passes instead.
  """
  exact, difference = (
    step_flops(
      training.auto_lambda(
        T, loss_fn, optax.sgd(0.1), virtual_rate=0.1, hypergradient=which
      ),
      *(X, X + 1),
    )
    for which in ("exact", "finite_difference")
  )
  assert exact <= 3.4 * plain()
  assert exact <= difference


def test_samo_runs_each_perturbed_loss_alone():
  """Two forward passes and a step for each task, each with its own head."""
  tx = optax.chain(optax_mtl.equal_weighting(T), optax.sgd(0.1))
  method = training.samo(T, loss_fn, tx, shared=SHARED)
  one = lambda params, x: loss_fn(params, x)[0]  # noqa: E731
  forward = flops(one, params_of(), X)
  single = flops(jax.value_and_grad(one), params_of(), X)
  drawn = lambda key: jax.random.normal(key, (2, WIDTH, WIDTH))  # noqa: E731
  drawing = flops(drawn, jax.random.key(0))
  want = plain() + T * (2 * forward + single + drawing)
  # A tenth for what is done with the params themselves.
  assert step_flops(method, X) <= 1.1 * want
