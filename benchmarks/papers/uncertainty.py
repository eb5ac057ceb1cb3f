"""The toy data of uncertainty weighting (CVPR 2018): two noisy lines.

A linear model, full batches, float64. The learnt noise must be the root mean
square residual of least squares, which is known exactly. It is learnt by the
transformation, and once more among the params, by the objective itself.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from benchmarks.data import datasets
from benchmarks.papers import _report
from optax_mtl import plot

#: What the residuals of least squares amount to, for seed 0.
EXPECTED = (10.28188627728701, 0.9492408336586697)
#: Of the noise that the data were drawn with.
_TRUE = (10.0, 1.0)
#: How far sigma may be from `EXPECTED`, relatively.
_TOLERANCE = 1e-6


def _losses(
  params: dict[str, jax.Array], x: jax.Array, y: jax.Array
) -> jax.Array:
  """Mean squared errors [2] of one line for each task."""
  prediction = x * params["slope"][None] + params["intercept"][None]
  return jnp.mean(jnp.square(prediction - y), axis=0)


def _optimizer(steps: int) -> optax.GradientTransformation:
  # A constant rate would leave Adam circling around the optimum; with the usual
  # long memory of large gradients it would not get there.
  rate = optax.cosine_decay_schedule(0.1, steps)
  return optax.adam(rate, b2=0.995, eps=1e-6)


def least_squares(data: dict[str, np.ndarray]) -> np.ndarray:
  """Root mean square residuals [2] of the best line for each task."""
  x, y = (data[name].astype(np.float64) for name in ("x", "y"))
  design = np.concatenate([x, np.ones_like(x)], axis=1)
  solution = np.linalg.lstsq(design, y, rcond=None)[0]
  return np.sqrt(np.mean((y - design @ solution) ** 2, axis=0))


def run(steps: int = 3000) -> dict[str, np.ndarray]:
  """Learns the noise in both ways.

  Args:
    steps: Of Adam; its rate decays to zero over them.

  Returns:
    A dict of "transformation" and "among the params", sigma after every step,
    float64 [steps, 2] each, and "least squares", [2].
  """
  data = datasets.uncertainty_toy().train
  with jax.enable_x64(True):
    x, y = (jnp.asarray(data[name], jnp.float64) for name in ("x", "y"))
    line = {"slope": jnp.zeros(2), "intercept": jnp.zeros(2)}

    chain = optax.chain(
      optax_mtl.uncertainty_weighting(2, optimizer=_optimizer(steps)),
      _optimizer(steps),
    )
    losses_and_grads = optax_mtl.value_and_task_grads(_losses)

    def step(carry: Any, _: None) -> Any:
      params, state = carry
      losses, grads = losses_and_grads(params, x, y)
      updates, state = chain.update(grads, state, params, losses=losses)
      log_vars = optax.tree.get(state, "log_vars")
      return (optax.apply_updates(params, updates), state), log_vars

    among = _optimizer(steps)

    def objective(params: Any) -> jax.Array:
      losses = _losses(params["line"], x, y)
      return optax_mtl.uncertainty_loss(losses, params["log_vars"])

    def step_among(carry: Any, _: None) -> Any:
      params, state = carry
      updates, state = among.update(jax.grad(objective)(params), state)
      params = optax.apply_updates(params, updates)
      return (params, state), params["log_vars"]

    @functools.partial(jax.jit, static_argnums=0)
    def train(step: Callable[..., Any], carry: Any) -> jax.Array:
      return jnp.exp(jax.lax.scan(step, carry, length=steps)[1] / 2)

    everything = {"line": line, "log_vars": jnp.zeros(2)}
    return {
      "transformation": np.asarray(train(step, (line, chain.init(line)))),
      "among the params": np.asarray(
        train(step_among, (everything, among.init(everything)))
      ),
      "least squares": least_squares(data),
    }


def is_reproduced(result: dict[str, np.ndarray]) -> bool:
  """Whether both ways end at the exact values."""
  ends = [result["transformation"][-1], result["among the params"][-1]]
  return bool(np.allclose(ends, [EXPECTED] * 2, rtol=_TOLERANCE, atol=0))


def _figure(result: dict[str, Any]) -> Any:
  steps = np.arange(1, len(result["transformation"]) + 1)
  # The interesting part is the start, so points are drawn at equal ratios.
  shown = np.unique(np.geomspace(1, len(steps), 200).astype(int)) - 1
  curves = {
    name: result[name][shown] for name in ("transformation", "among the params")
  }
  exact = np.tile(result["least squares"][None], (len(shown), 1))
  figure = plot.learning_curves(
    curves | {"least squares": exact},
    task_names=datasets.uncertainty_toy().task_names,
    steps=steps[shown],
    ylabel="learnt noise, sigma",
  )
  for ax in figure.axes:
    ax.set_xscale("log")
    ax.lines[1].set_markevery(10)
  # The two ways are one line: the second is drawn as dots on the first.
  legend = figure.legends[0].legend_handles
  for lines in (*(ax.lines for ax in figure.axes), legend):
    lines[1].set(linestyle="none", marker="o", markersize=4)
    lines[2].set(linestyle="--", color="#888888", zorder=1)
  return figure


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; writes JSON and a picture; 1 if a value is off."""
  args = _report.parse(
    "uncertainty", __doc__, argv, steps=(3000, "of Adam, full batch")
  )
  result = run(args.steps)
  rows = [["drawn with", *(f"{value:.9f}" for value in _TRUE)]]
  rows.append(["expected", *(f"{value:.9f}" for value in EXPECTED)])
  for name in ("least squares", "transformation", "among the params"):
    last = np.atleast_2d(result[name])[-1]
    rows.append([name, *(f"{value:.9f}" for value in last)])
  apart = np.max(
    np.abs(result["transformation"] / result["among the params"] - 1)
  )
  _report.print_table(
    f"Uncertainty weighting: sigma, {args.steps} steps",
    ("", "noisy line", "clean line"),
    rows,
    [f"Over all steps the two ways are at most {apart:.1e} apart, relatively."],
  )
  reproduced = is_reproduced(result)
  _report.write(
    args,
    "uncertainty",
    {"expected": EXPECTED, "reproduced": reproduced, **result},
    {"sigma": _figure(result)},
  )
  return 0 if reproduced else 1


if __name__ == "__main__":
  raise SystemExit(main())
