"""What a method reads is found by tracing, for the package's and for others."""

import harness
import jax.numpy as jnp
import optax
import pytest

import optax_mtl
from optax_mtl import Facts

#: Not as declared anywhere: what each paper's formula has in it.
EXPECTED = {
  "equal_weighting": Facts((), (), False, False, True),
  "fixed_weighting": Facts((), ("weights",), False, False, True),
  "uncertainty_weighting": Facts(("losses",), (), False, False, True),
  "dwa": Facts(("losses",), (), False, False, True),
  "dtp": Facts(("kpis",), (), False, False, True),
  "gradnorm": Facts(("losses",), (), True, False, True, norms=True),
  "mgda": Facts((), (), True, False, True),
  "pareto_mtl": Facts(("preference", "losses"), (), True, False, True),
  "norm_balance": Facts((), (), True, False, True, norms=True),
  "lr_annealing": Facts((), (), True, False, True, norms=True),
  "db_pinn": Facts(("losses",), (), True, False, True, norms=True),
  "ntk_weighting": Facts(("traces",), (), False, False, True),
  "bloop": Facts((), (), False, False, False, single=True, sums=True),
  "graddrop": Facts((), (), False, True, False),
  "trimmed_mean": Facts((), (), False, True, False),
  "median": Facts((), (), False, True, False),
  "moco": Facts((), (), False, True, False),
  "db_mtl": Facts(("losses",), (), False, True, False),
  "excess_mtl": Facts((), (), False, True, False),
  "largest_entry": Facts((), (), False, True, False),
  "famo": Facts(("losses",), ("previous_losses",), False, False, True),
  "relobralo": Facts(("losses",), (), False, False, True),
  "softadapt": Facts(("losses",), (), False, False, True),
  "rlw": Facts((), (), False, False, True),
  "gls": Facts(("losses",), (), False, False, True),
  "scale_invariant": Facts(("losses",), (), False, False, True),
  "imtl_l": Facts(("losses",), (), False, False, True),
  "stch": Facts(("losses",), ("preference",), False, False, True),
  "igb": Facts(("losses",), (), False, False, True),
  "uw_so": Facts(("losses",), (), False, False, True),
  "ldc_mtl": Facts(("losses",), (), False, False, True),
  "go4align": Facts(("losses",), (), False, False, True),
  "m_config": Facts((), (), False, False, False, single=True),
  "even_fall": Facts(("losses",), ("previous_losses",), False, False, True),
  "pcd": Facts((), (), True, False, True),
  "sdmgrad": Facts(("second_grads",), (), True, False, True),
  "modo": Facts(("second_grads",), (), True, False, True),
  "two_batches": Facts(("second_grads",), (), True, False, True),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_facts(name):
  facts = optax_mtl.facts(harness.build(name))
  assert facts._replace(needs=()) == EXPECTED[name]._replace(needs=())
  assert set(facts.needs) == set(EXPECTED[name].needs)


@pytest.mark.parametrize("name", harness.NAMES)
def test_the_room_is_what_is_read(name):
  """A rule lives where a reader looks for it."""
  facts, room = optax_mtl.facts(harness.build(name)), harness.info(name).room
  assert facts.weights != (room == "gradients")
  if room == "losses":
    # One backward pass a step, with any source.
    assert not facts.gram and not facts.stacked
  if room == "gram":
    assert facts.gram and not facts.stacked
  if room == "gradients":
    assert facts.stacked or facts.single
  assert (room == "preference") == ("preference" in facts.needs)
  known = {
    field
    for field, value in vars(optax_mtl.Step).items()
    if hasattr(value, "reason")
  }
  assert set(facts.needs) | set(facts.optional) <= known


def test_needs_of_an_instance():
  """An argument may change what a method needs."""
  assert optax_mtl.facts(optax_mtl.mgda(2, "loss")).needs == ("losses",)
  assert optax_mtl.facts(optax_mtl.mgda(2, "l2")).needs == ()


def test_facts_see_through_wrappers_of_the_rule():
  tx = optax_mtl.refresh_every(optax_mtl.ema_weights(optax_mtl.gradnorm(2)), 3)
  facts = optax_mtl.facts(tx)
  assert facts.needs == ("losses",) and facts.gram
  tx = optax_mtl.on_trunk(harness.build("graddrop"), True)
  assert optax_mtl.facts(tx) == EXPECTED["graddrop"]


def test_facts_under_an_axis():
  """A rule that sees all solutions is traced under the axis that it names."""
  tx = harness.build("grad_hv", (0, 1))
  facts = optax_mtl.facts(tx, axis_name="front")
  assert facts == Facts(("losses",), (), False, False, True)
  with pytest.raises(NameError, match="front"):
    optax_mtl.facts(tx)


def test_facts_of_what_is_no_method():
  for tx in (
    optax.chain(optax_mtl.mgda(2), optax.sgd(0.1)),
    optax_mtl.skip_nonfinite(optax_mtl.mgda(2)),
  ):
    with pytest.raises(TypeError, match="facts takes a method as its function"):
      optax_mtl.facts(tx)


@pytest.mark.parametrize("name", harness.WEIGHING)
def test_what_is_not_needed_is_not_looked_at(name):
  """Extra args of the wrong shape, where a method reads none of them."""
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row, tx = harness.row_of(data, 0), harness.build(name)
  facts = optax_mtl.facts(tx)
  wrong = set(row.extra) - set(facts.needs) - set(facts.optional)
  harness.traced(
    tx, row, harness.params(), **{k: jnp.zeros((7, 7)) for k in wrong}
  )
