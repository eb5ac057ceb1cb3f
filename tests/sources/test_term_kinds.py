"""Terms with backward passes of all kinds, by both sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint

import optax_mtl
from optax_mtl.sources import as_task_gradients


def solved(p, x0):
  times = jnp.array([0.0, 1.0])
  return jnp.sum(odeint(lambda y, _, p: -y * p, x0, times, p)[-1])


@jax.custom_vjp
def clipped(p):
  return jnp.tanh(p)


clipped.defvjp(
  lambda p: (jnp.tanh(p), p), lambda p, g: (jnp.clip(g, -0.1, 0.1) * p,)
)


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_backward_passes_of_all_kinds(source):
  """An ODE solver, a clipped gradient, loops, complex params, half precision.

  A rule that is not linear is applied to each term's own gradient by both.
  """
  terms = {
    "ode": lambda p, x0: solved(p["real"], x0),
    "clip": lambda p: 5 * jnp.sum(clipped(p["real"])),
    "loop": lambda p, x: jnp.sum(
      jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y) * p["real"], x)
    ),
    "complex": lambda p: jnp.sum(jnp.abs(p["complex"] - 1j) ** 2),
    "half": lambda p, x: jnp.sum(p["half"] * x.astype(jnp.bfloat16)),
  }
  params = {
    "real": jnp.array([0.5, -0.3]),
    "complex": jnp.array([1.0 + 2.0j]),
    "half": jnp.array([1.0, 300.0], jnp.bfloat16),
  }
  x = jnp.array([0.7, 1.1])
  batches = {"ode": x, "clip": (), "loop": x, "complex": (), "half": x}
  weights = jnp.array([1.0, -2.0, 0.5, 3.0, 1e-3])

  @jax.jit
  def run(params, batches, task):
    losses, grads = optax_mtl.value_and_task_batch_grads(terms, source=source)(
      params, batches
    )
    grads = as_task_gradients(grads, 5, params)
    return losses, grads.gram(), grads.combine(weights), grads.gradient_of(task)

  losses, gram, combined, one = run(params, batches, 3)
  assert losses["half"].dtype == jnp.bfloat16
  rows = {
    name: jax.grad(term)(
      params, *(() if isinstance(batches[name], tuple) else (x,))
    )
    for name, term in terms.items()
  }
  order = sorted(terms)
  stacked = [
    np.stack([np.asarray(rows[name][leaf]).astype(complex) for name in order])
    for leaf in params
  ]
  want = sum((leaf @ leaf.conj().T).real for leaf in stacked)
  # odeint's own tolerance is 1e-8; entries are below 10.
  np.testing.assert_allclose(gram, want, rtol=1e-4, atol=1e-5)
  for leaf, tasks in zip(params, stacked, strict=True):
    # bfloat16 leaves round once: eight bits.
    rtol = 2.0**-8 if leaf == "half" else 1e-4
    got = np.asarray(combined[leaf]).astype(complex)
    want = np.asarray(weights) @ tasks
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(
      np.asarray(one[leaf]).astype(complex), tasks[3], rtol=1e-4
    )
