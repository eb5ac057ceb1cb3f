"""What a step costs with each source, measured on the compiled program."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl.diagnosis.forms import Form
from optax_mtl.methods.gram import mgda
from optax_mtl.sources import losses as losses_lib

#: The first row: what is compared with.
PLAIN = "summed loss"
#: Timed calls of each program, in turn, so that a busy moment hits all alike.
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Cost:
  """One way to an update.

  Attributes:
    source: "summed loss", or the source's name; "stacked, shared=" where it was
      told the trunk.
    seconds: Of one call, the median.
    times_plain: The same over that of the summed loss.
    temporary_bytes: What the compiled program allocates beside its arguments
      and results; None where the backend does not say.
    compile_seconds: To trace and compile it.
  """

  source: str
  seconds: float
  times_plain: float
  temporary_bytes: int | None
  compile_seconds: float


def _temporary_bytes(compiled: Any) -> int | None:
  """As the backend says; some have no analysis."""
  analysis = compiled.memory_analysis()
  size = getattr(analysis, "temp_size_in_bytes", None)
  return None if size is None else int(size)


def measure(
  form: Form, params: Any, args: tuple[Any, ...], num_tasks: int, trunk: Any
) -> tuple[Cost, ...]:
  """Compiles and times an update with each source.

  The method is `mgda`: one that reads the Gram matrix, which is what costs.

  Args:
    form: The loss function's.
    params: The params.
    args: A batch.
    num_tasks: T.
    trunk: A tree of bools, which leaves are shared.

  Returns:
    The costs, the summed loss first.
  """
  tx = mgda(num_tasks)
  state = tx.init(params)

  def plain(params: Any, *args: Any) -> Any:
    return jax.grad(
      lambda params: jnp.sum(losses_lib.stack(form.losses(params, *args)))
    )(params)

  def step(source: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
    def update(params: Any, *args: Any) -> Any:
      losses, gradients = source(params, *args)
      return tx.update(gradients, state, params, losses=losses)[0]

    return update

  steps: dict[str, Callable[..., Any]] = {PLAIN: plain}
  is_split = not all(jax.tree.leaves(trunk))
  for name, source in form.sources.items():
    steps[name] = step(source(None))
    if is_split:
      steps[f"{name}, shared="] = step(source(trunk))

  compiled: dict[str, Any] = {}
  compile_seconds: dict[str, float] = {}
  for name, fun in steps.items():
    start = time.perf_counter()
    compiled[name] = jax.jit(fun).lower(params, *args).compile()
    compile_seconds[name] = time.perf_counter() - start
    jax.block_until_ready(compiled[name](params, *args))
  times: dict[str, list[float]] = {name: [] for name in steps}
  for _ in range(_ROUNDS):
    for name, program in compiled.items():
      start = time.perf_counter()
      jax.block_until_ready(program(params, *args))
      times[name].append(time.perf_counter() - start)
  seconds = {name: statistics.median(values) for name, values in times.items()}
  return tuple(
    Cost(
      source=name,
      seconds=seconds[name],
      times_plain=seconds[name] / seconds[PLAIN],
      temporary_bytes=_temporary_bytes(program),
      compile_seconds=compile_seconds[name],
    )
    for name, program in compiled.items()
  )
