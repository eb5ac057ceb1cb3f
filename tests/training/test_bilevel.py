"""Auto-Lambda and MOML against loops in NumPy."""

import jax
import numpy as np
from training import quadratics as q

import optax_mtl

#: Of hypergradients by differences, accurate to 1e-11, after three steps.
RTOL = 1e-8
RATE, LEARN, STEP = 0.2, {"auto_lambda": 0.05, "moml": 0.5}, 0.1


def ahead(x, weights, centers):
  """The params after the virtual step."""
  return x - RATE * weights @ q.gradients_at(x, centers)


def auto_lambda(primary):
  """Three steps: params, weights and validation losses after each."""
  x, weights = q.X, np.array([0.1, 0.2, 0.3])
  for batch, validation in zip(q.BATCHES, q.VALIDATION, strict=True):

    def upper(weights, x=x, batch=batch, validation=validation):
      return primary @ q.losses_at(ahead(x, weights, batch), validation)

    values = q.losses_at(ahead(x, weights, batch), validation)
    weights = weights - LEARN["auto_lambda"] * q.derivative(upper, weights)
    x = x - STEP * weights @ q.gradients_at(x, batch)
    yield x, weights, values


def test_auto_lambda_as_its_reference():
  """The exact hypergradient, and the paper's difference: exact on quadratics.

  The difference is of the training losses at two points, of which each is
  rounded: 2e-16 of the losses over 2 * 0.01 * ‖v‖.
  """
  primary = np.array([1.0, 0.0, 2.0])
  want = list(auto_lambda(primary))
  with jax.enable_x64(True):
    for hypergradient in ("exact", "finite_difference"):
      method = q.built(
        "auto_lambda",
        q.named_loss_fn,
        primary=dict(zip(q.NAMES, primary, strict=True)),
        initial_weights=[0.1, 0.2, 0.3],
        hypergradient=hypergradient,
      )
      x, state = q.trained(method)
      for i, (point, weights, values) in enumerate(want):
        np.testing.assert_allclose(x[i], point, rtol=RTOL)
        np.testing.assert_allclose(state.weights[i], weights, rtol=RTOL)
        np.testing.assert_allclose(
          state.validation_losses[i], values, rtol=RTOL
        )
  np.testing.assert_array_equal(state.training_step, [1, 2, 3])


def min_norm(gram):
  """MGDA's shares of three gradients, by all supports of one, two or three."""
  best, value = None, np.inf
  for support in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
    part = gram[np.ix_(support, support)]
    shares = np.linalg.lstsq(
      np.block(
        [[part, np.ones((len(support), 1))], [np.ones(len(support)), 0]]
      ),
      np.append(np.zeros(len(support)), 1.0),
      rcond=None,
    )[0][:-1]
    if (shares >= 0).all() and shares @ part @ shares < value:
      best, value = np.zeros(3), shares @ part @ shares
      best[support] = shares
  return best


def moml(combine):
  x, logits = q.X, np.zeros(q.T)
  for batch, validation in zip(q.BATCHES, q.VALIDATION, strict=True):

    def upper(logits, x=x, batch=batch, validation=validation):
      there = ahead(x, q.softmax(logits), batch)
      return q.losses_at(there, validation)

    rows = q.derivative(upper, logits)  # [k, i]
    logits = logits - LEARN["moml"] * combine(rows) @ rows
    x = x - STEP * q.softmax(logits) @ q.gradients_at(x, batch)
    yield x, q.softmax(logits)


def test_moml_as_its_reference():
  want = list(moml(lambda rows: min_norm(rows @ rows.T)))
  with jax.enable_x64(True):
    x, state = q.trained(q.built("moml"))
  for i, (point, weights) in enumerate(want):
    np.testing.assert_allclose(x[i], point, rtol=RTOL)
    np.testing.assert_allclose(state.weights[i], weights, rtol=RTOL)
  # MGDA had something to weigh: it is no vertex.
  shares = optax_mtl.method_state(state.upper_method).weights
  assert (np.sort(shares, axis=1)[:, 1] > 0.01).all()


def test_moml_with_equal_weights_descends_the_sum():
  want = list(moml(lambda rows: np.ones(q.T)))
  with jax.enable_x64(True):
    sum_of_all = optax_mtl.equal_weighting(q.T)
    method = q.built("moml", method=sum_of_all, source="implicit")
    x, state = q.trained(method)
  for i, (point, weights) in enumerate(want):
    np.testing.assert_allclose(x[i], point, rtol=RTOL)
    np.testing.assert_allclose(state.weights[i], weights, rtol=RTOL)


def test_a_schedule_of_the_virtual_rate():
  """0 in the first step: the weights stay, and move in the second."""
  late = lambda step: 0.2 * step  # noqa: E731
  _, state = q.trained(q.built("auto_lambda", virtual_rate=late), steps=2)
  np.testing.assert_allclose(state.weights[0], 0.1, rtol=1e-6)
  assert not np.allclose(state.weights[1], state.weights[0], rtol=1e-3)
