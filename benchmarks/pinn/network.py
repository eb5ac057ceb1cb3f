"""The network of every problem: a tanh MLP on standardised inputs."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from benchmarks.pinn.problem import Params


def init(
  sizes: Sequence[int], **others: float
) -> Callable[[jax.Array], Params]:
  """A function from a key to params: Glorot normal kernels, biases zero.

  Args:
    sizes: Of the input, the hidden layers and the output.
    **others: Name to first value of a scalar that is trained too.

  Returns:
    The function.

  Example:
    >>> params = init([2, 5, 1])(jax.random.key(0))
    >>> [layer["kernel"].shape for layer in params["layers"]]
    [(2, 5), (5, 1)]
  """
  glorot = jax.nn.initializers.glorot_normal()
  shapes = list(zip(sizes[:-1], sizes[1:], strict=True))

  def params(key: jax.Array) -> Params:
    keys = jax.random.split(key, len(shapes))
    layers = [
      {
        "kernel": glorot(key, shape, jnp.float32),
        "bias": jnp.zeros(shape[1], jnp.float32),
      }
      for key, shape in zip(keys, shapes, strict=True)
    ]
    scalars = {
      name: jnp.asarray(value, jnp.float32) for name, value in others.items()
    }
    return {"layers": layers, **scalars}

  return params


def apply(params: Params, inputs: jax.Array) -> jax.Array:
  """The outputs [N, C], or [N] where there is one, for inputs [N, d]."""
  *hidden, last = params["layers"]
  for layer in hidden:
    inputs = jnp.tanh(inputs @ layer["kernel"] + layer["bias"][None])
  outputs = inputs @ last["kernel"] + last["bias"][None]
  return outputs[:, 0] if outputs.shape[1] == 1 else outputs


def standardised(
  low: Sequence[float], high: Sequence[float]
) -> Callable[[Params, jax.Array], jax.Array]:
  """`apply` for points of a box, first brought to mean 0 and variance 1.

  Those are the moments of a uniform distribution in the box, not of a batch.
  """
  # The variance of a uniform distribution is its width squared over twelve.
  scale = [12**0.5 / (b - a) for a, b in zip(low, high, strict=True)]
  middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]

  def predict(params: Params, points: jax.Array) -> jax.Array:
    dtype = points.dtype
    centred = points - jnp.asarray(middle, dtype)[None]
    return apply(params, centred * jnp.asarray(scale, dtype)[None])

  return predict
