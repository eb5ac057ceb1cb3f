"""Dynamic task prioritization: its formula, and KPIs that are missing."""

import jax
import numpy as np
from one_step import close, step, train

import optax_mtl

KPIS = np.array([0.1, 0.5, 0.9, 0.99])
#: γ of each task, and weights worked out with 30 digits.
ORACLES = [
  ([0.0] * 4, -np.log(KPIS)),
  ([1.0] * 4, [2.07232658, 0.34657359, 0.01053605, 1.00503e-4]),
  ([2.0] * 4, [1.86509392, 0.17328680, 0.00105361, 1.005e-6]),
  ([0.0, 1.0, 2.0, 0.0], [2.30258509, 0.34657359, 0.00105361, 0.01005034]),
]


def test_oracles():
  with jax.enable_x64(True):
    weights = jax.jit(
      jax.vmap(
        lambda gamma: (
          step(optax_mtl.dtp(4, list(gamma)), np.eye(4), kpis=KPIS)[1].weights
        )
      )
    )(np.array([gamma for gamma, _ in ORACLES]))
  for found, (_, expected) in zip(weights, ORACLES, strict=True):
    # The digits of the oracle.
    close(found, expected, 0.0, 1e-8)


def test_one_gamma_is_for_all_tasks():
  _, state = step(optax_mtl.dtp(4, 2.0), np.eye(4), kpis=KPIS)
  close(state.weights, ORACLES[2][1], 1e-4, 1e-8)


def test_moving_average_and_missing_kpis():
  """The average begins at the first KPI, and holds where one is missing."""
  kpis = [[np.nan, 0.5], [0.1, np.nan], [0.2, 0.9]]
  updates, states = train(optax_mtl.dtp(2), np.eye(2), kpis=kpis)
  close(states.weights[0], [1.0, 0.34657359])
  # A missing KPI does not drop the task.
  close(updates[0], [1.0, 0.34657359])
  assert states.memory.kpi_seen[0].tolist() == [False, True]
  close(states.weights[1], [2.07232658, 0.34657359])
  close(states.memory.kpi_average[2], [0.11, 0.54])


def test_a_missing_kpi_is_no_missing_gradient():
  """`drop_nonfinite` looks at the gradients, and leaves the KPIs alone."""
  tx = optax_mtl.drop_nonfinite(optax_mtl.dtp(2))
  updates, _ = step(tx, np.eye(2), kpis=[np.nan, 0.5])
  close(updates, [1.0, 0.34657359])


def test_kpis_at_the_ends_of_their_range():
  """Rounded beyond, they are clipped to [1e-6, 1 - 1e-6], and averaged then."""
  _, states = train(
    optax_mtl.dtp(2), np.eye(2), kpis=[[-0.005, 1.005], [0.5, 0.5]]
  )
  # log 1e-6, and nothing.
  close(states.weights[0], [-np.log(1e-6), 0.0], 1e-5, 1e-11)
  assert (np.asarray(states.weights) >= 0).all()
  average = 0.9 * np.array([1e-6, 1 - 1e-6]) + 0.05
  close(states.memory.kpi_average[1], average)


def test_normalized_weights_sum_to_the_active_tasks():
  tx = optax_mtl.dtp(3, normalize=True)
  active = [[True, True, True], [True, False, True]]
  _, states = train(tx, np.eye(3), kpis=[[0.9, 0.99, 0.999]] * 2, active=active)
  close(np.sum(states.weights, axis=1), [3.0, 2.0])
  # In the same proportions.
  _, free = step(optax_mtl.dtp(3), np.eye(3), kpis=[0.9, 0.99, 0.999])
  ratio = np.asarray(states.weights[0]) / np.asarray(free.weights)
  close(ratio, np.full(3, ratio[0]), 1e-5)
