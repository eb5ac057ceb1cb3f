"""Solvers on many matrices at once, in few compiled programs.

Compiling is what these tests cost, and each other number of tasks or of
matrices is a program. So matrices are filled up with absent tasks, whose rows
are NaN and must not matter, and batches by repeating matrices.
"""

import jax
import jax.numpy as jnp
import numpy as np

#: Numbers of tasks that are filled up to -> how many matrices a call takes.
SIZES = {10: 64, 40: 64, 128: 16}
#: The same, where two tasks have an algorithm of their own.
WITH_TWO = {2: 64} | SIZES


class Batched:
  """A solver of Gram matrices as a function of many: [N, T, T].

  Args:
    solve: Function `(gram, active, *args) -> (answer [..., T], certificate)`
      of one matrix.
    sizes: As `SIZES`.
  """

  def __init__(self, solve, sizes=SIZES):
    self._sizes = sizes
    self._solve = jax.jit(jax.vmap(solve))

  def __call__(self, grams, *args, active=None, rows=()):
    """Solves them.

    Args:
      grams: Array [N, T, T].
      *args: Scalars, for all matrices alike, or arrays [N, ...].
      active: Array [N, T] of bool, or None for all.
      rows: Arrays [N, T] or [N, K, T]: args that are filled up as well, with
        zeros, K to the same size as T where it equals T. They come first.

    Returns:
      What `solve` does, as NumPy arrays with a first axis of N.
    """
    grams = np.asarray(grams)
    count, num_tasks = grams.shape[:2]
    size = next((s for s in self._sizes if s >= num_tasks), num_tasks)
    batch = self._sizes.get(size, count)
    missing = (0, size - num_tasks)
    if active is None:
      active = np.ones((count, num_tasks), bool)
    active = np.pad(active, [(0, 0), missing])
    grams = np.pad(grams, [(0, 0), missing, missing], constant_values=np.nan)
    filled = []
    for values in map(np.asarray, rows):
      pads = [(0, 0)] + [
        missing if n == num_tasks else (0, 0) for n in values.shape[1:]
      ]
      filled.append(np.pad(values, pads))
    args = [np.asarray(arg) for arg in args]
    args = [arg if arg.ndim else np.full(count, arg) for arg in args]
    everything = (grams, active, *filled, *args)
    parts = []
    for start in range(0, count, batch):
      chosen = np.arange(start, start + batch) % count
      part = self._solve(*(jnp.asarray(leaf[chosen]) for leaf in everything))
      parts.append(jax.tree.map(np.asarray, part))
    answer, certificate = jax.tree.map(
      lambda *x: np.concatenate(x)[:count], *parts
    )
    if answer.ndim > 2 and answer.shape[1] == size:
      answer = answer[:, :num_tasks]
    assert (answer[..., num_tasks:] == 0).all()
    return answer[..., :num_tasks], certificate
