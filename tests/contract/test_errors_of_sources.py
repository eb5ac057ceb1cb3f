"""Wrong input of the sources is an error while tracing, which names it."""

import jax
import jax.numpy as jnp
import pytest

import optax_mtl


def losses_of(params):
  return jnp.stack([jnp.sum(params), jnp.sum(params**2)])


SOURCES = [
  (lambda p: jnp.sum(p), ValueError, r"losses must have shape .*\[\]"),
  (lambda p: [p, p], ValueError, r"losses\[0\] must be a scalar, got shape"),
  (
    lambda p: {"b": jnp.sum(p), "a": p},
    ValueError,
    r"losses\['a'\] must be a scalar, got shape \[2\]",
  ),
  (lambda p: [], ValueError, "losses is empty"),
  (lambda p: None, TypeError, "losses must be an array"),
  (lambda p: [jnp.sum(p), "x"], TypeError, r"losses\[1\] must be a scalar"),
  (lambda p: jnp.argsort(p), TypeError, "losses must be real floating point"),
]


@pytest.mark.parametrize("function, kind, message", SOURCES)
@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_loss_functions(function, kind, message, source):
  with pytest.raises(kind, match=message):
    optax_mtl.value_and_task_grads(function, source=source)(jnp.ones(2))


def test_source_arguments():
  grads = optax_mtl.value_and_task_grads
  with pytest.raises(ValueError, match="source must be one of 'stacked'"):
    grads(losses_of, source="explicit")
  for size in (0, -1, 1.0, "all"):
    with pytest.raises(ValueError, match="chunk_size must be None or a pos"):
      grads(losses_of, chunk_size=size)
    with pytest.raises(ValueError, match="chunk_size must be None or a pos"):
      optax_mtl.value_and_task_batch_grads(losses_of, chunk_size=size)
    with pytest.raises(ValueError, match="chunk_size must be None or a pos"):
      optax_mtl.value_and_representation_grads(
        losses_of, losses_of, chunk_size=size
      )
  with pytest.raises(ValueError, match="argnums=1 names a positional"):
    grads(losses_of, argnums=1)(jnp.ones(2))
  with pytest.raises(TypeError, match=r"leaf \['n'\] of argument 0 .* int32"):
    grads(lambda p: losses_of(p["x"]))(
      {"x": jnp.ones(2), "n": jnp.zeros((), jnp.int32)}
    )
  with pytest.raises(TypeError, match="has_aux=True, fun must return a pair"):
    grads(losses_of, has_aux=True)(jnp.ones(2))
  with pytest.raises(TypeError, match="trunk_fn must return a pair"):
    optax_mtl.value_and_representation_grads(
      lambda p: p, lambda p, z: losses_of(z), has_aux=True
    )(jnp.ones(2))


def test_calls_of_terms():
  terms = {
    "pde": lambda p, x, y: jnp.sum(p * x * y),
    "bc": lambda p: jnp.sum(p),
  }
  grads = optax_mtl.value_and_task_batch_grads(terms)
  params, x = jnp.ones(2), jnp.ones(2)
  batches = {"pde": (x, x), "bc": ()}
  with pytest.raises(TypeError, match="got 1 positional argument. "):
    grads(params)
  with pytest.raises(TypeError, match="positional arguments alone.*batches="):
    grads(params, batches=batches)
  # Python's own error calls both by `<lambda>`, and says nothing of the batch.
  with pytest.raises(TypeError, match=r"term 'pde' .* 2 arg.*'y'.* a list, wh"):
    grads(params, batches | {"pde": [x, x]})
  with pytest.raises(TypeError, match="term 'bc' .* 2 arg.* tuple of 1, which"):
    grads(params, batches | {"bc": (x,)})
  with pytest.raises(TypeError, match=r"losses\['n'\] must be real floating"):
    optax_mtl.value_and_task_batch_grads({"n": lambda p: jnp.int32(3)})(
      params, {"n": ()}
    )
  with pytest.raises(ValueError, match="of bc, but the batches of no task"):
    optax_mtl.ntk_traces({"bc": lambda p, x: p[0] * x}, params, {})


def test_gradients_that_are_no_array():
  """Where they are taken for one, it is said what they are and what to do."""
  grads = optax_mtl.value_and_task_grads(losses_of, source="implicit")
  # `jit` has words of its own for what it cannot return, and names the type.
  with pytest.raises(TypeError, match="value of type .*ImplicitTaskGradients"):
    jax.eval_shape(jax.jit(grads), jnp.ones(2))
  _, gradients = grads(jnp.ones(2))
  with pytest.raises(TypeError, match="ImplicitTaskGradients"):
    jnp.clip(gradients, -1, 1)
  with pytest.raises(TypeError, match="put an optax_mtl method before every"):
    gradients * 2.0
