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
  with pytest.raises(TypeError, match="The term 'n' must return real fl"):
    optax_mtl.value_and_task_batch_grads({"n": lambda p: jnp.int32(3)})(
      params, {"n": ()}
    )
  with pytest.raises(ValueError, match="of bc, but the batches of no task"):
    optax_mtl.ntk_traces({"bc": lambda p, x: p[0] * x}, params, {})


def with_aux(params):
  return losses_of(params), {"seen": params}


def with_scalar_aux(params):
  return {"a": jnp.sum(params), "b": jnp.sum(params**2)}, jnp.sum(params)


def of_one(params, *batch):
  return jnp.sum(params), jnp.ones(())


def sum_of(params, *args):
  return jnp.sum(params)


#: What was called -> the call, in which has_aux=True was forgotten.
FORGOTTEN = {
  **{
    f"{source}, {fun.__name__}": (
      lambda p, fun=fun, source=source: optax_mtl.value_and_task_grads(
        fun, source=source
      )(p)
    )
    for source in ("stacked", "implicit")
    for fun in (with_aux, with_scalar_aux)
  },
  "heads": lambda p: optax_mtl.value_and_representation_grads(
    lambda p: p, lambda p, z: with_aux(z)
  )(p),
  "trunk": lambda p: optax_mtl.value_and_representation_grads(
    lambda p: (p, jnp.arange(2)), lambda p, z: losses_of(z[0])
  )(p),
  "terms": lambda p: optax_mtl.value_and_task_batch_grads(
    {"a": of_one, "b": sum_of}
  )(p, {"a": (), "b": ()}),
  "implicit terms": lambda p: optax_mtl.value_and_task_batch_grads(
    {"a": of_one, "b": sum_of}, source="implicit"
  )(p, {"a": (), "b": ()}),
  "one function": lambda p: optax_mtl.value_and_task_batch_grads(of_one)(
    p, jnp.ones((2, 1))
  ),
  "residual": lambda p: optax_mtl.ntk_traces(
    {"a": of_one}, p, {"a": jnp.ones((2, 1))}
  ),
}


@pytest.mark.parametrize("call", FORGOTTEN)
def test_aux_that_was_not_announced(call):
  """The error says how to announce it."""
  with pytest.raises(TypeError, match="has_aux="):
    jax.eval_shape(FORGOTTEN[call], jnp.ones(2))


def test_a_pair_of_losses_is_no_aux():
  """Two scalars are two losses."""
  value, _ = optax_mtl.value_and_task_grads(
    lambda p: (jnp.sum(p), jnp.sum(p**2))
  )(jnp.ones(2))
  assert value.tolist() == [2.0, 2.0]
  with pytest.raises(TypeError, match="two losses, each must be a scalar"):
    optax_mtl.value_and_task_grads(lambda p: (p, p))(jnp.ones(2))
  with pytest.raises(ValueError, match=r"tasks must return .* got shape \[2\]"):
    optax_mtl.value_and_task_batch_grads(lambda p, x: p)(
      jnp.ones(2), jnp.ones((2, 1))
    )


def test_a_tuple_is_a_sample_of_a_residual():
  """Where a term's arguments are what its author had in mind, it is said."""
  with pytest.raises(ValueError, match="is a scalar.*A tuple is one sample"):
    optax_mtl.ntk_traces(
      {"a": lambda p, x, w: w * p[0] * x},
      jnp.ones(2),
      {"a": (jnp.ones(3), 1.0)},
    )


@pytest.mark.parametrize("argnums", [1.0, "0", None, True, (0, "1")])
def test_argnums_that_are_no_numbers(argnums):
  with pytest.raises(TypeError, match="argnums must be an int"):
    optax_mtl.value_and_task_grads(losses_of, argnums=argnums)(jnp.ones(2))


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
