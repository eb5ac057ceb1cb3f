"""Long runs in bad weather: tasks come and go, NaN bursts, losses overflow.

    python -m benchmarks.faults.soak
    python -m benchmarks.faults.soak --methods mgda,gradnorm --steps 1e4

Every method trains a small network for 100,000 steps, as

    skip_nonfinite(chain(drop_nonfinite(method), clip_by_global_norm, adam)).

After each step params and state have to be finite, and the weights as the
method claims; over the run neither the process nor the number of live arrays
may grow; and what follows, 2,000 calm steps, has to train. Prints a line a
method, and ends with status 1 if anything fails. A chunk of steps is one call.
"""

import functools
import gc
import os
import pathlib
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from benchmarks.common import options, output

NUM_TASKS = 3
_WIDTH = 4
#: How many steps a call takes, and how many calm ones follow.
CHUNK, CALM = 1000, 2000
#: What a loss is multiplied with in a burst. After the first two: the gradient
#: overflows with the loss; the Gram matrix does; nothing does.
FACTORS = (np.nan, np.inf, 1e38, 1e25, 1e12)
_EPS = float(np.finfo(np.float32).eps)
#: What a process may grow by once it has done a tenth of its chunks: pages that
#: its allocator has taken and will use again. One array of a state that were
#: kept in each call, page by page, would be a third of that in 90 chunks.
GROWTH_BYTES = 1 << 20


class Weather(NamedTuple):
  """What happens in each step of a chunk of `N`.

  Attributes:
    noise: `[N, 2, P]`, moves the targets of two batches.
    active: `[N, T]` bool.
    factor: `[N, T]`, what each loss is multiplied with.
  """

  noise: np.ndarray
  active: np.ndarray
  factor: np.ndarray


def weather(seed: int, number: int, steps: int, *, calm: bool) -> Weather:
  """The weather of a chunk.

  A task comes or goes once in 40 steps, all being absent now and then; for each
  of them a burst begins once in 200, and lasts up to 20. None lasts longer than
  what `skip_nonfinite` is told to bear.
  """
  rng = np.random.default_rng([seed, number])
  noise = 0.1 * rng.standard_normal((steps, 2, _WIDTH))
  active = np.ones((steps, NUM_TASKS), bool)
  factor = np.ones((steps, NUM_TASKS))
  if not calm:
    flips = rng.random((steps, NUM_TASKS)) < 1 / 40
    active = np.cumsum(flips, axis=0) % 2 == 0
    for step, task in np.argwhere(rng.random((steps, NUM_TASKS)) < 1 / 200):
      length = rng.integers(1, 21)
      factor[step : step + length, task] = rng.choice(FACTORS)
  return Weather(noise.astype(np.float32), active, factor.astype(np.float32))


class Account(NamedTuple):
  """What has gone wrong so far, each a number of steps, int32.

  Attributes:
    not_finite: Params or state were not.
    off_claims: The weights were not what the method claims.
    absent_weighed: A task that was absent, or not finite, had a weight.
    skipped: Steps that were skipped, which is no fault.
  """

  not_finite: jax.Array
  off_claims: jax.Array
  absent_weighed: jax.Array
  skipped: jax.Array


def losses_of(params: Any, noise: jax.Array, factor: jax.Array) -> jax.Array:
  """Three squares that want different things of one trunk, and a head each."""
  trunk = jnp.tanh(params["trunk"] + noise)
  goals = jnp.arange(1.0, NUM_TASKS + 1)[:, None] / (NUM_TASKS + 1)
  found = trunk[None, :] * params["heads"]
  losses = jnp.mean(jnp.square(found - goals), axis=1) + 0.01
  return losses * factor


def first_params() -> Any:
  """The params that every run starts with."""
  return {
    "trunk": jnp.linspace(-0.4, 0.5, _WIDTH, dtype=jnp.float32),
    "heads": jnp.full((NUM_TASKS, _WIDTH), 0.5, jnp.float32),
  }


def _finite(tree: Any) -> jax.Array:
  leaves = [x for x in jax.tree.leaves(tree) if x.dtype.kind == "f"]
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _off_claims(
  claims: frozenset[str], weights: jax.Array, taking: jax.Array
) -> jax.Array:
  """Whether weights are not what a method claims, a scalar bool."""
  wrong = jnp.zeros((), bool)
  if "positive_weights" in claims or "simplex" in claims:
    wrong |= jnp.any(weights < 0)
  if "simplex" in claims:
    # A division each, and the sum of what divides them.
    near = jnp.abs(jnp.sum(weights) - 1) <= 2 * NUM_TASKS * _EPS
    wrong |= jnp.any(taking) & ~near
  return wrong


class Run(NamedTuple):
  """A method, ready to run.

  Attributes:
    start: Function of nothing to the first carry: params, state, account.
    chunk: Function from a carry and the weather to the next carry, jitted; it
      takes the carry's memory for its own.
  """

  start: Callable[[], Any]
  chunk: Callable[[Any, Weather], Any]


def new_run(name: str) -> Run:
  """Builds a method's run."""
  build = optax_mtl.METHODS[name]
  example = dict(build.info.example(tuple(range(NUM_TASKS))))
  method = build(NUM_TASKS, **example)
  needs = set(optax_mtl.facts(method).needs)
  tx = optax_mtl.skip_nonfinite(
    optax.chain(
      optax_mtl.drop_nonfinite(method),
      optax.clip_by_global_norm(1.0),
      optax.adam(1e-3),
    ),
    max_consecutive=100,
  )
  source = optax_mtl.value_and_task_grads(losses_of)

  def extra_of(losses: jax.Array, second: Any, before: jax.Array) -> Any:
    known = {
      "kpis": jnp.clip(jnp.exp(-losses), 0.01, 0.99),
      "preference": jnp.arange(1.0, NUM_TASKS + 1),
      "previous_losses": before,
      "traces": 1.0 + losses,
      "second_grads": second,
    }
    return {n: v for n, v in known.items() if n in needs} | {"losses": losses}

  def step(carry: Any, now: Weather) -> tuple[Any, None]:
    params, state, account, before = carry
    losses, grads = source(params, now.noise[0], now.factor)
    _, second = source(params, now.noise[1], now.factor)
    extra = extra_of(
      losses, second.stacked() if "second_grads" in needs else None, before
    )
    updates, new = tx.update(
      grads, state, params, active=jnp.asarray(now.active), **extra
    )
    params = optax.apply_updates(params, updates)
    went = new.skipped_total == state.skipped_total
    weights = getattr(new.inner_state[0], "weights", None)
    off = weighed = jnp.zeros((), bool)
    if weights is not None:
      taking = now.active & jnp.isfinite(losses)
      off = went & _off_claims(build.info.claims, weights, taking)
      weighed = went & jnp.any((weights != 0) & ~taking)
    bad = ~(_finite(params) & _finite(new))
    marks = (bad, off, weighed, ~went)
    account = Account(
      *(n + m.astype(jnp.int32) for n, m in zip(account, marks, strict=True))
    )
    before = jnp.where(jnp.isfinite(losses), losses, before)
    return (params, new, account, before), None

  @functools.partial(jax.jit, donate_argnums=0)
  def chunk(carry: Any, chunk_weather: Weather) -> Any:
    return jax.lax.scan(step, carry, chunk_weather)[0]

  def start() -> Any:
    params = first_params()
    account = Account(*(jnp.zeros((), jnp.int32) for _ in Account._fields))
    return params, tx.init(params), account, jnp.ones(NUM_TASKS)

  return Run(start, chunk)


def resident_bytes() -> int:
  """What the process holds in memory now; at most, where nobody says it."""
  statm = pathlib.Path("/proc/self/statm")
  if statm.exists():
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Result(NamedTuple):
  """How a run went.

  Attributes:
    account: Of the steps.
    before: The sum of the losses, without noise, at the start.
    after: The same at the end of the calm.
    grown_bytes: By how much the process has.
    grown_arrays: By how many live arrays.
    seconds: How long the steps took.
  """

  account: Account
  before: float
  after: float
  grown_bytes: int
  grown_arrays: int
  seconds: float

  def faults(self) -> list[str]:
    """What went wrong, in words."""
    found = {
      "steps not finite": int(self.account.not_finite),
      "steps off the method's claims": int(self.account.off_claims),
      "steps with a weight where no task was": int(self.account.absent_weighed),
      "live arrays more": max(self.grown_arrays, 0),
      "bytes more": self.grown_bytes * (self.grown_bytes > GROWTH_BYTES),
    }
    words = [f"{number:,} {what}" for what, number in found.items() if number]
    if not self.after < self.before:
      words.append(f"does not train: {self.before:.3f} to {self.after:.3f}")
    return words


def soak(name: str, steps: int, seed: int = 0) -> Result:
  """Runs a method through all of it."""
  run = new_run(name)
  calm = jnp.zeros(_WIDTH), jnp.ones(NUM_TASKS)
  before = float(jnp.sum(losses_of(first_params(), *calm)))
  carry = run.start()
  chunks, sizes = steps // CHUNK, []
  begin = time.perf_counter()
  for number in range(chunks):
    carry = run.chunk(carry, weather(seed, number, CHUNK, calm=False))
    jax.block_until_ready(carry)
    if number in (chunks // 10, chunks - 1):
      gc.collect()
      sizes.append((resident_bytes(), len(jax.live_arrays())))
  seconds = time.perf_counter() - begin
  for number in range(CALM // CHUNK):
    carry = run.chunk(carry, weather(seed + 1, number, CHUNK, calm=True))
  after = float(jnp.sum(losses_of(carry[0], *calm)))
  (bytes_then, arrays_then), (bytes_now, arrays_now) = sizes[0], sizes[-1]
  return Result(
    account=jax.device_get(carry[2]),
    before=before,
    after=after,
    grown_bytes=bytes_now - bytes_then,
    grown_arrays=arrays_now - arrays_then,
    seconds=seconds,
  )


COLUMNS = [
  "method",
  "steps",
  "skipped",
  "losses\nbefore",
  "losses\nafter",
  "memory\ngrown, kB",
  "live arrays\ngrown",
  "µs\na step",
  "faults",
]


def main(argv: Sequence[str] | None = None) -> int:
  """Soaks and prints; returns the exit status."""
  parser = options.new_parser("faults.soak", __doc__, as_it_is=True)
  parser.add_argument("--steps", type=options.number, default=100_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--methods", type=options.words, default=list(optax_mtl.METHODS)
  )
  args = parser.parse_args(argv)
  options.check_known(parser, "methods", args.methods, optax_mtl.METHODS)
  if args.steps < 2 * CHUNK:
    parser.error(f"--steps must be at least {2 * CHUNK}, to see what grows")
  console = output.new_console(140)
  table = output.new_table("Long runs in bad weather", COLUMNS)
  failed = 0
  for name in args.methods:
    result = soak(name, args.steps, args.seed)
    faults = result.faults()
    failed += bool(faults)
    table.add_row(
      name,
      f"{args.steps:,}",
      f"{int(result.account.skipped):,}",
      f"{result.before:.3f}",
      f"{result.after:.3f}",
      f"{result.grown_bytes / 1024:.0f}",
      f"{result.grown_arrays}",
      f"{1e6 * result.seconds / args.steps:.0f}",
      str(len(faults)),
    )
    console.print(f"{name}: {'; '.join(faults) or 'nothing to report'}")
  console.print(table)
  return 1 if failed else 0


if __name__ == "__main__":
  raise SystemExit(main())
