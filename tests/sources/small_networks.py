"""Small networks for the sources: an MLP, a CNN with statistics, attention.

Each is `(params, trunk, x)` with `trunk(params, x) -> z`, or `(z, aux)` for the
CNN, whose batch statistics are the aux; all have the heads of `head_losses`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

#: The number of tasks.
T = 3


def normal(seed, *shape):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def mlp():
  params = {
    "trunk": {"a": normal(0, 4, 8) / 2, "b": normal(1, 8, 5) / 2},
    "heads": normal(2, T, 5) / 2,
  }

  def trunk(params, x):
    return jnp.tanh(jnp.tanh(x @ params["trunk"]["a"]) @ params["trunk"]["b"])

  return params, trunk, normal(3, 6, 4)


def cnn():
  """Two convolutions with batch normalisation; the statistics are the aux."""
  params = {
    "trunk": {
      "a": normal(0, 3, 3, 2, 4) / 4,
      "b": normal(1, 3, 3, 4, 5) / 6,
      "scale": jnp.full((4,), 1.5),
    },
    "heads": normal(2, T, 5),
  }

  def conv(x, kernel, stride):
    return lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  def trunk(params, x):
    x = conv(x, params["trunk"]["a"], 1)
    mean = jnp.mean(x, (0, 1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), (0, 1, 2), keepdims=True)
    x = (x - mean) / jnp.sqrt(variance + 1e-3)
    scale = params["trunk"]["scale"].reshape(1, 1, 1, -1)
    x = conv(jax.nn.relu(x * scale), params["trunk"]["b"], 2)
    return jnp.mean(x, (1, 2)), {"mean": mean, "variance": variance}

  return params, trunk, normal(3, 4, 6, 6, 2)


def attention():
  params = {
    "trunk": {
      name: normal(i, 5, 5) / 2 for i, name in enumerate(("q", "k", "v", "out"))
    },
    "heads": normal(4, T, 5),
  }

  def trunk(params, x):
    q, k, v = (x @ params["trunk"][name] for name in ("q", "k", "v"))
    scores = jnp.einsum("nid,njd->nij", q, k) * 5**-0.5
    mixed = jnp.einsum("nij,njd->nid", jax.nn.softmax(scores), v)
    return jnp.mean(x + mixed @ params["trunk"]["out"], axis=1)

  return params, trunk, normal(6, 4, 3, 5)


NETWORKS = {"mlp": mlp, "cnn": cnn, "attention": attention}


def head_losses(params, z):
  """Squared, absolute and logistic: three different losses."""
  out = z @ params["heads"].T
  return jnp.stack(
    [
      jnp.mean(jnp.square(out[:, 0] - 1)),
      jnp.mean(jnp.abs(out[:, 1] + 1)),
      jnp.mean(jax.nn.softplus(3 * out[:, 2])),
    ]
  )


@functools.cache
def network(kind):
  """`(params, x, loss_fn, has_aux, parts)` of one of the networks."""
  params, trunk, x = NETWORKS[kind]()
  has_aux = kind == "cnn"

  def loss_fn(params, x):
    out = trunk(params, x)
    z, aux = out if has_aux else (out, None)
    losses = head_losses(params, z)
    return (losses, aux) if has_aux else losses

  def heads(params, z, x):
    losses = head_losses(params, z)
    return (losses, None) if has_aux else losses

  return params, x, loss_fn, has_aux, (trunk, heads)
