"""FAMO: Adam on the logits of the tasks, from the fall of their log-losses."""

import numpy as np

from benchmarks.reference.methods._shared import Adam, Extra, reference


def softmax(logits: np.ndarray) -> np.ndarray:
  """Shares that sum to 1."""
  power = np.exp(logits - logits.max())
  return power / power.sum()


@reference("famo")
def famo(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  decay: float = 1e-3,
  min_losses: float = 0.0,
  eps: float = 1e-8,
) -> np.ndarray:
  """Weights [steps, T] that sum to 1; the first losses teach nothing."""
  logits, adam, last, out = np.zeros(num_tasks), Adam(), None, []
  after_steps = extra.get("previous_losses", extra["losses"])
  for losses, after in zip(extra["losses"], after_steps, strict=True):
    if last is not None:
      fall = np.log(last) - np.log(after - min_losses + eps)
      share = softmax(logits)
      # The softmax's Jacobian, times the fall.
      jacobian = np.diag(share) - np.outer(share, share)
      logits = logits + adam(jacobian @ fall + decay * logits)
    last = losses - min_losses + eps
    share = softmax(logits) / last
    out.append(share / share.sum())
  return np.stack(out)
