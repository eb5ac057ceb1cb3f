"""Task gradients where an array is expected: an error that says what to do."""

from typing import Any, NoReturn


class NoArray:
  """Refuses what another transformation may try on what it takes for an array.

  Attributes:
    num_tasks: The number of tasks `T`.
  """

  num_tasks: int

  def _refuse(self, *_: Any) -> NoReturn:
    raise TypeError(
      f"{type(self).__name__} stands for {self.num_tasks} gradients and is "
      "no array: put an optax_mtl method before every other transformation, "
      "and call its update in the same jitted function. What goes around a "
      "whole chain is optax_mtl.accumulate in place of optax.MultiSteps, and "
      "optax_mtl.skip_nonfinite in place of optax.apply_if_finite. Or use "
      "source='stacked' without shared=, and all terms, to have the gradients "
      "as a plain tree."
    )

  # What another transformation may try on what it takes for an array. A
  # property: JAX only asks whether there is such a method, and then raises an
  # error of its own that names neither the source nor what to do.
  __jax_array__ = property(_refuse)
  __add__ = __radd__ = __sub__ = __rsub__ = _refuse
  __mul__ = __rmul__ = __truediv__ = __pow__ = __neg__ = _refuse
  __abs__ = __getitem__ = __iter__ = __len__ = _refuse
  real = property(_refuse)

  def __contains__(self, key: object) -> NoReturn:
    """Refused: Flax's own train state looks for a key of the gradients."""
    try:
      self._refuse()
    except TypeError as error:
      raise TypeError(
        f"{error} With Flax, optax_mtl.integrations.flax.TrainState takes them."
      ) from None
