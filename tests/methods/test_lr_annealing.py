"""Learning-rate annealing: the sheet's values, the codes', and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, together

import optax_mtl


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


#: The residual's largest entry is 4, the condition's mean absolute entry 1.
GRADS = np.array([[4.0, 0.0, -2.0], [1.0, -2.0, 0.0]])
MEAN_0, STD_0, STD_1 = 2.0, np.std(GRADS[0]), np.std(GRADS[1])
#: Sizes of the gradients of `test_codes`, in no order.
SIZES = np.array([[0.1], [3.0], [0.5]])


def weights_over(steps, **arguments):
  """The condition's weights on the same gradients, over so many steps."""
  tx = optax_mtl.lr_annealing(2, **arguments)
  found = together({"": tx}, np.stack([GRADS] * steps))
  weights = np.asarray(found[""][1].weights)
  assert (weights[:, 0] == 1).all()
  return weights[:, 1]


def test_with_and_without_the_weight_inside():
  """The sheet's: 1.3, 1.47769231, to 2; and 1.3, 1.57, to 4."""
  inside = weights_over(200)
  close(inside[:2], [1.3, 1.47769231], 1e-8)
  close(inside[-1], 2.0, 1e-9)
  outside = weights_over(200, relative=False)
  close(outside[:2], [1.3, 1.57], 1e-13)
  # 0.9^200 of the distance of 3 is left.
  close(outside[-1], 4.0, 1e-8)


def authors(grads, decay=0.9, steps=(0, 1, 2, 3, 4)):
  """The authors' loop: the `adaptive_constant` of each condition."""
  weight, out = np.ones(3), []
  for step, g in enumerate(grads):
    for i in (0, 2) if step in steps else ():
      wanted = np.max(abs(g[1])) / np.mean(abs(weight[i] * g[i]))
      weight[i] = wanted * (1 - decay) + decay * weight[i]
    out.append(weight.copy())
  return out


def means(grads):
  weight, out = np.ones(3), []
  for g in grads:
    wanted = np.mean(abs(g[1])) / np.mean(abs(g), axis=1)
    weight = np.where([1, 0, 1], 0.1 * wanted + 0.9 * weight, 1.0)
    out.append(weight)
  return out


def inverse_dirichlet(grads):
  weight, out = np.ones(3), []
  for g in grads:
    deviations = np.std(g, axis=1, ddof=1)
    weight = 0.5 * weight + 0.5 * deviations.max() / deviations
    out.append(weight)
  return out


CODES = {
  "authors": ({}, authors),
  "every third step from the second": ({}, lambda g: authors(g, 0.9, (1, 4))),
  "new value by 0.9": ({"decay": 0.1}, lambda g: authors(g, 0.1)),
  "means": ({"statistic": "mean"}, means),
  "inverse Dirichlet": (
    {"reference": "max", "statistic": "std", "decay": 0.5},
    inverse_dirichlet,
  ),
}


def test_codes():
  """Row 1 is the residual; the entries are spread over two leaves."""
  rng = np.random.default_rng(0)
  grads = SIZES * rng.standard_normal((5, 3, 6))
  txs = {
    name: optax_mtl.lr_annealing(3, **({"reference": 1} | arguments))
    for name, (arguments, _) in CODES.items()
  }
  txs["every third step from the second"] = optax_mtl.refresh_every(
    optax_mtl.lr_annealing(3, 1), 3, first=1
  )
  leaves = {"a": grads[..., :4].reshape(5, 3, 2, 2), "b": grads[..., 4:]}
  found = together(txs, leaves)
  for name, (_, code) in CODES.items():
    close(found[name][1].weights, code(grads), 1e-13)


def test_where_there_is_no_ratio():
  """Weights stand still: zero, absent, or not finite, and the residual too."""
  grads = np.stack([GRADS] * 6)
  active = np.ones((6, 2), bool)
  grads[1, 1] = 0
  grads[2, 0] = 0
  grads[3, 1, 0] = np.nan
  active[4, 0] = False
  tx = optax_mtl.lr_annealing(2, relative=False)
  updates, states = together({"": tx}, grads, active=active)[""]
  close(states.weights[:, 1], [1.3, 1.3, 1.3, 1.3, 1.3, 1.57])
  assert np.isnan(updates[3]).any() and np.isfinite(updates[4]).all()


def test_at_a_representation():
  """The entries are those of the gradients at the representation."""
  x, params = jnp.arange(1.0, 4.0), {"w": jnp.array([[2.0, 1.0, 0.5]] * 2)}

  def losses(params, z):
    return [4 * z[0] - 2 * z[1], z[0] * z[1]]

  source = optax_mtl.value_and_representation_grads(
    lambda params: params["w"] @ x, losses
  )
  _, grads = source(params)
  tx = optax_mtl.lr_annealing(2, relative=False)
  _, state = tx.update(grads, tx.init(params), params)
  z = 5.5  # Both entries: the second gradient is (z, z).
  close(state.weights, [1.0, 0.9 + 0.1 * 4 / z])


def test_arguments():
  for arguments, message in (
    ({"reference": 2}, "0 to 1; got 2"),
    ({"statistic": "median"}, "statistic must be one of 'max_mean'"),
    ({"decay": 1.0}, r"decay must lie in \[0, 1\)"),
  ):
    with pytest.raises(ValueError, match=message):
      optax_mtl.lr_annealing(2, **arguments)


def test_leaves_of_one_shape_count_like_one_large():
  """They are copied next to each other first."""
  grads = np.random.default_rng(0).standard_normal((2, 24)).astype(np.float32)
  apart = {str(i): grads[:, 8 * i : 8 * i + 8] for i in range(3)}
  for statistic in ("max_mean", "mean", "std"):
    tx = optax_mtl.lr_annealing(2, statistic=statistic)
    weights = [
      tx.update(tree, tx.init(jax.tree.map(lambda x: x[0], tree)))[1].weights
      for tree in (grads, apart)
    ]
    # A mean of 24 entries, summed in another order.
    np.testing.assert_allclose(*weights, rtol=24 * np.finfo(np.float32).eps)
