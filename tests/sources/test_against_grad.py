"""Every source against `jax.grad`, task by task and without `jit`.

Over layers that reduce over a short last axis, at sizes at which compilers have
been wrong: jaxlib 0.10.2 miscompiles their batched backward passes on CPU. So
they are compiled as users compile them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit_as_users

import optax_mtl
from optax_mtl.sources import as_task_gradients, miscompiled


def unit(y):
  return y * jax.lax.rsqrt(jnp.sum(y * y, -1, keepdims=True) + 1e-6)


def layer_norm(y):
  centred = y - jnp.mean(y, -1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
  return centred * jax.lax.rsqrt(variance + 1e-6)


def rms_norm(y):
  return y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)


LAYERS = {
  "unit": unit,
  "layer_norm": layer_norm,
  "rms_norm": rms_norm,
  "softmax": jax.nn.softmax,
}

# Layers, last axes and numbers of entries. The small ones have fewer params
# together than make the stacked source take one task after another.
SMALL = [
  ("unit", 3, 24_000),
  ("layer_norm", 2, 24_000),
  ("rms_norm", 3, 24_000),
  ("softmax", 16, 1_000),
]
LARGE = [
  ("unit", 2, 300_000),
  ("layer_norm", 64, 1_000_000),
  ("rms_norm", 8, 30_000),
  ("softmax", 2, 1_000),
]


@functools.cache
def problem(cases):
  """Params, data, and the gradients of two losses as `jax.grad` has them."""
  rng = np.random.default_rng(0)
  params, normals = (
    {
      f"{name} {last} {entries}": jnp.asarray(
        rng.standard_normal((entries // last, last)), jnp.float32
      )
      for name, last, entries in cases
    }
    for _ in range(2)
  )
  rows = [jax.grad(functools.partial(loss, t))(params, normals) for t in (0, 1)]
  return params, normals, jax.tree.map(lambda *x: np.stack(x), *rows)


def loss(task, params, normals):
  total = jnp.zeros(())
  for name, y in params.items():
    layer = LAYERS[name.split()[0]]
    total += jnp.sum(layer(y) * normals[name]) if task == 0 else jnp.sum(y)
  return total


def losses(params, normals):
  return [loss(0, params, normals), loss(1, params, normals)]


def task_batches(chunk_size):
  def one(params, weights, normals):
    return weights @ jnp.stack(losses(params, normals))

  grads_of = optax_mtl.value_and_task_batch_grads(
    one, in_axes=(0, None), chunk_size=chunk_size
  )
  return lambda params, normals: grads_of(params, jnp.eye(2), normals)


def value_and_task_grads(**options):
  return optax_mtl.value_and_task_grads(losses, **options)


SOURCES = {
  "stacked": (value_and_task_grads(), SMALL),
  "stacked in chunks": (value_and_task_grads(chunk_size=2), LARGE),
  "implicit in chunks": (
    value_and_task_grads(source="implicit", chunk_size=2),
    SMALL + LARGE,
  ),
  "trunk": (
    value_and_task_grads(
      shared=lambda params: {name: "soft" not in name for name in params}
    ),
    SMALL,
  ),
  "task batches": (task_batches(None), SMALL + LARGE),
  "task batches in chunks": (task_batches(2), SMALL + LARGE),
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
  """With that version the warning would be an error here."""
  monkeypatch.setattr(miscompiled, "_warned", True)


@pytest.mark.parametrize("source", SOURCES)
def test_gradients_are_those_of_grad(source):
  grads_of, cases = SOURCES[source]
  params, normals, want = problem(tuple(cases))

  @jit_as_users
  def run(params, normals):
    _, grads = grads_of(params, normals)
    return as_task_gradients(grads, 2, params).stacked()

  got = run(params, normals)
  for name in want:
    # Sums of at most 64 terms in another order, over norms of down to 1e-3 of
    # what is normalised; a wrong fusion is off by tenths of the largest entry.
    np.testing.assert_allclose(
      got[name], want[name], rtol=0, atol=1e-5 * np.abs(want[name]).max()
    )


def test_the_gram_matrix_at_a_representation_is_that_of_grad():
  """Its gradients are seen in the Gram matrix alone."""
  grads_of = optax_mtl.value_and_representation_grads(
    lambda params, _: params,
    lambda _, z, normals: losses(z, normals),
    chunk_size=2,
  )
  params, normals, want = problem(tuple(SMALL))
  gram = jit_as_users(lambda *args: grads_of(*args)[1].gram())(params, normals)
  rows = np.concatenate(
    [leaf.reshape(2, -1).astype(np.float64) for leaf in want.values()], axis=1
  )
  lengths = np.linalg.norm(rows, axis=1)
  # What a wrong fusion returns is off by 0.02 here.
  error = np.abs(gram - rows @ rows.T) / np.outer(lengths, lengths)
  assert error.max() < 1e-5
