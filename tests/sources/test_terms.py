"""Terms that are functions of their own, against `jax.grad` of each alone."""

from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import normal

import optax_mtl
from optax_mtl.sources import TaskGradients, as_task_gradients

PARAMS = {
  "net": [normal(0, 2, 6), normal(1, 6, 1)],
  "diffusion": jnp.float32(0.3),
  "gain": jnp.array([1.5, -0.5]),
}
TRUNK = {"net": True, "diffusion": False, "gain": False}
WEIGHTS = jnp.array([2.0, -0.5, 3.0])
NAMES = ["boundary", "decay", "pde"]


def net(params, x):
  first, last = params["net"]
  return (jnp.tanh(x @ first) @ last)[..., 0]


def pde(params, x, forcing):
  """A second derivative, and a head of its own."""
  curvature = jax.vmap(jax.hessian(lambda x: net(params, x)))(x)
  residual = params["diffusion"] * curvature[:, 0, 0] - forcing
  return jnp.mean(residual**2)


def boundary(params, points):
  values = net(params, points["x"]) * params["gain"][0] + params["gain"][1]
  return jnp.mean((values - points["u"]) ** 2)


def decay(params):
  return sum(jnp.sum(kernel**2) for kernel in params["net"])


TERMS = {"pde": pde, "boundary": boundary, "decay": decay}
BATCHES = {
  "pde": (normal(2, 7, 2), normal(3, 7)),
  "boundary": {"x": normal(4, 3, 2), "u": normal(5, 3)},
  "decay": (),
}
ARGS = {
  "pde": BATCHES["pde"],
  "boundary": (BATCHES["boundary"],),
  "decay": (),
}


def each():
  """Losses and gradients of each term by `jax.grad`, without `jit`."""
  found = {
    name: jax.value_and_grad(TERMS[name])(PARAMS, *ARGS[name]) for name in NAMES
  }
  losses = {name: loss for name, (loss, _) in found.items()}
  rows = [found[name][1] for name in NAMES]
  return losses, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def close(got, want):
  # Means of a few products, differentiated twice.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
    got,
    want,
  )


def weigh(weights, tree):
  return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), tree)


FORMS = {
  "stacked": {},
  "stacked in turn": {"chunk_size": 1},
  "trunk": {"shared": TRUNK},
  "implicit": {"source": "implicit"},
  "implicit in pairs": {"source": "implicit", "chunk_size": 2},
  "implicit trunk": {"source": "implicit", "shared": TRUNK},
}


@pytest.mark.parametrize(
  "form, jit",
  [
    *((form, True) for form in FORMS),
    *((form, False) for form in ("stacked", "trunk", "implicit")),
  ],
)
def test_each_term_by_itself(form, jit):
  """All that a method may ask for, of every source."""
  options = FORMS[form]
  grads_of = optax_mtl.value_and_task_batch_grads(TERMS, **options)
  want_losses, want = each()

  def run(params, batches, task):
    losses, grads = grads_of(params, batches)
    assert isinstance(grads, TaskGradients) != form.startswith("stacked")
    grads = as_task_gradients(grads, 3, params)
    return losses, {
      "stacked": grads.stacked(),
      "gram": grads.gram(),
      "squares": grads.squared_norms(),
      "combined": grads.combine(WEIGHTS),
      "one": grads.gradient_of(task),
      "first": grads.gradient_of(0),
      "cross": grads.cross_gram(grads),
      "finite": grads.finite(),
    }

  losses, got = (jax.jit(run) if jit else run)(PARAMS, BATCHES, 2)
  assert list(losses) == NAMES
  close(losses, want_losses)
  trunk = want["net"] if "shared" in options else want
  rows = harness.flat(trunk, 1)
  head_weights = jnp.ones(3) if "shared" in options else WEIGHTS
  combined = weigh(head_weights, want)
  combined["net"] = weigh(WEIGHTS, want["net"])
  close(got["stacked"], want)
  close(got["combined"], combined)
  close(got["one"], jax.tree.map(lambda leaf: leaf[2], want))
  close(got["first"], jax.tree.map(lambda leaf: leaf[0], want))
  assert got["finite"].all()
  gram = rows @ rows.T
  scale = np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
  for key in ("gram", "cross"):
    np.testing.assert_allclose(got[key] / scale, gram / scale, atol=1e-5)
  np.testing.assert_allclose(got["squares"], np.diag(gram), rtol=1e-5)


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_an_absent_term(source):
  """It is inactive in every method, and nothing of its function runs."""
  calls = []

  def counted(params, *args):
    calls.append(1)
    return pde(params, *args)

  grads_of = optax_mtl.value_and_task_batch_grads(
    TERMS | {"pde": counted}, has_aux=False, source=source
  )
  missing = {name: b for name, b in BATCHES.items() if name != "pde"}
  for batches in (missing, missing | {"pde": None}):
    losses, grads = grads_of(PARAMS, batches)
    assert not calls
    assert isinstance(grads, TaskGradients)
    assert grads.present == (True, True, False)
    assert grads.names == ("boundary", "decay", "pde")
    assert (
      jnp.isnan(losses.pop("pde"))
      and jnp.isfinite(jnp.stack(list(losses.values()))).all()
    )
    assert not np.any(grads.gradient_of(2)["net"][0])
  # MGDA would take a zero gradient for a veto.
  active = jnp.array([True, True, False])
  _, all_of_them = optax_mtl.value_and_task_batch_grads(TERMS)(PARAMS, BATCHES)
  losses, grads = grads_of(PARAMS, missing)
  for wrap in (
    lambda tx: tx,
    optax_mtl.drop_nonfinite,
    optax_mtl.track,
    lambda tx: optax_mtl.accumulate(tx, 3, 1),
  ):
    tx = wrap(optax_mtl.mgda(3))
    want, _ = tx.update(all_of_them, tx.init(PARAMS), PARAMS, active=active)
    got, _ = tx.update(grads, tx.init(PARAMS), PARAMS, losses=losses)
    close(got, want)
    # A mask that is given says no more than that.
    both, _ = tx.update(
      grads, tx.init(PARAMS), PARAMS, losses=losses, active=jnp.ones(3, bool)
    )
    close(both, want)
  tx = optax_mtl.gradnorm(3)
  _, state = tx.update(grads, tx.init(PARAMS), PARAMS, losses=losses)
  assert not state.memory.initial_losses_set[2]
  other = as_task_gradients(grads_of(PARAMS, BATCHES)[1], 3)
  other.names = grads.names
  with pytest.raises(ValueError, match="lack the same tasks"):
    grads.cross_gram(other)


def test_a_traced_absence_changes_nothing_else():
  """`active=` is data: one program for each choice of tasks."""
  tx = optax_mtl.equal_weighting(3)

  @jax.jit
  def step(active):
    losses, grads = optax_mtl.value_and_task_batch_grads(TERMS)(PARAMS, BATCHES)
    return tx.update(
      grads, tx.init(PARAMS), PARAMS, losses=losses, active=active
    )

  for active in ([True, True, False], [False, True, True]):
    _, state = step(jnp.array(active))
    assert (np.asarray(state.weights) != 0).tolist() == active
  assert step._cache_size() == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_stays_in_its_term(form):
  """Its square root's derivative at zero is inf, and inf times 0 is NaN."""
  terms = {
    "bad": lambda p, x: jnp.sum(jnp.sqrt(p["net"] * x)) + jnp.sum(p["head"]),
    "good": lambda p, x: jnp.sum(p["net"] * x),
    "sum": lambda p: jnp.sum(p["net"]) + p["head"][0],
  }
  params = {"net": jnp.array([0.0, 1.0]), "head": jnp.array([1.0, jnp.inf])}
  batches = {"bad": jnp.zeros(2), "good": jnp.ones(2), "sum": ()}
  options = dict(FORMS[form])
  if "shared" in options:
    options["shared"] = {"net": True, "head": False}
  grads_of = optax_mtl.value_and_task_batch_grads(terms, **options)

  @jax.jit
  def run(params):
    losses, grads = grads_of(params, batches)
    grads = as_task_gradients(grads, 3, params)
    tx = optax_mtl.drop_nonfinite(optax_mtl.equal_weighting(3))
    update, _ = tx.update(grads, tx.init(params), params, losses=losses)
    return update, grads.gram(), grads.finite()

  update, gram, finite = run(params)
  assert finite.tolist() == [False, True, True]
  np.testing.assert_array_equal(update["net"], [2.0, 2.0])
  np.testing.assert_array_equal(update["head"], [1.0, 0.0])
  rest = 2.0 if "shared" in options else 3.0
  np.testing.assert_array_equal(gram[1:, 1:], [[2.0, 2.0], [2.0, rest]])


class Points(NamedTuple):
  x: jax.Array
  y: jax.Array


def test_what_a_batch_is():
  """A tuple is the arguments; all else, a named tuple too, is one."""
  terms = {
    "tuple": lambda p, x, y: p * x * y,
    "named": lambda p, points: p * points.x * points.y,
    "list": lambda p, points: p * points[0] * points[1],
    "none": lambda p: 2 * p,
  }
  two, three = jnp.array(2.0), jnp.array(3.0)
  losses, grads = optax_mtl.value_and_task_batch_grads(terms)(
    jnp.array(1.0),
    {
      "tuple": (two, three),
      "named": Points(two, three),
      "list": [two, three],
      "none": (),
    },
  )
  assert losses == {"list": 6.0, "named": 6.0, "none": 2.0, "tuple": 6.0}
  np.testing.assert_array_equal(grads, [6.0, 6.0, 2.0, 6.0])


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_aux_argnums_and_arguments_of_all_terms(source):
  """Positional arguments before the batches go to each term."""
  terms = {
    "a": lambda p, key, c, x: (c * jnp.sum(p * x), {"mean": jnp.mean(x)}),
    "b": lambda p, key, c: (jnp.sum(p) * c**2 * key, "text"),
  }
  p, c, x = jnp.array([1.0, 2.0]), jnp.array(3.0), jnp.array([4.0, 5.0])
  grads_of = optax_mtl.value_and_task_batch_grads(
    terms, has_aux=True, argnums=(0, -1), source=source
  )
  (losses, aux), grads = grads_of(p, 2.0, c, {"a": x, "b": ()})
  assert aux == {"a": {"mean": 4.5}, "b": "text"}
  assert losses == {"a": 42.0, "b": 54.0}
  of_p, of_c = as_task_gradients(grads, 2).stacked()
  np.testing.assert_array_equal(of_p, [[12.0, 15.0], [18.0, 18.0]])
  np.testing.assert_array_equal(of_c, [14.0, 36.0])
  (losses, aux), _ = grads_of(p, 2.0, c, {"b": ()})
  assert aux == {"a": None, "b": "text"} and jnp.isnan(losses["a"])


def test_what_terms_refuse():
  def call(terms=TERMS, args=(PARAMS, BATCHES), **options):
    return optax_mtl.value_and_task_batch_grads(terms, **options)(*args)

  for ask, error, message in (
    (lambda: call(args=(PARAMS, BATCHES | {"pd": ()})), ValueError, "'pd'"),
    (lambda: call(args=(PARAMS, {})), ValueError, "All terms are absent"),
    (lambda: call(args=(PARAMS, {"pde": None})), ValueError, "All terms"),
    (lambda: call(args=(PARAMS,)), TypeError, "got 1 positional arg"),
    (lambda: call(args=(PARAMS, 1.0)), TypeError, "got float"),
    (lambda: call(terms={}), ValueError, "at least one term"),
    (lambda: call(in_axes=1), ValueError, "in_axes= is for one function"),
    (lambda: call(source="both"), ValueError, "source must be one of"),
    (lambda: call(chunk_size=0), ValueError, "chunk_size"),
    (lambda: call(has_aux=True), TypeError, r"the term 'boundary' must return"),
    (lambda: call(argnums=1), ValueError, "the call has 1"),
    (
      lambda: call(TERMS | {"pde": lambda p, x, y: x}),
      ValueError,
      r"term 'pde' must return its loss, a scalar, got shape \[7, 2\]",
    ),
    (
      lambda: call(TERMS | {"decay": lambda p: 1}),
      TypeError,
      "real floating point",
    ),
    (
      lambda: call(decay, (PARAMS, BATCHES), source="implicit"),
      ValueError,
      "for a dict of terms",
    ),
    (lambda: call({"a": 1.0}), TypeError, "the term 'a' is a float, and no"),
    (lambda: call([pde, decay]), TypeError, "a dict of functions .* got list"),
    (lambda: call({0: pde, "a": pde}), TypeError, "one type, .* got 0, 'a'"),
  ):
    with pytest.raises(error, match=message):
      ask()


def test_float64():
  with jax.enable_x64(True):
    params = jnp.array([1.0, 2.0])
    terms = {"a": lambda p: jnp.sum(p**3) / 3, "b": lambda p, x: jnp.sum(p * x)}
    _, grads = optax_mtl.value_and_task_batch_grads(terms, source="implicit")(
      params, {"a": (), "b": params / 3}
    )
    np.testing.assert_allclose(grads.gram()[0], [17.0, 3.0], rtol=1e-15)


def test_donated_params_and_no_second_compilation():
  """In a training step whose terms come and go."""
  tx = optax_mtl.mgda(3)
  grads_of = optax_mtl.value_and_task_batch_grads(TERMS)

  traces = []

  def step(params, state, batches):
    traces.append(jax.tree.map(jax.typeof, (params, state, batches)))
    losses, grads = grads_of(params, batches)
    updates, state = tx.update(grads, state, params, losses=losses)
    return jax.tree.map(lambda p, u: p - 1e-2 * u, params, updates), state

  step = jax.jit(step, donate_argnums=(0, 1))
  params = jax.tree.map(jnp.copy, PARAMS)
  state = tx.init(params)
  some = {name: BATCHES[name] for name in ("decay", "boundary")}
  for batches in (BATCHES, some, BATCHES, some):
    params, state = step(params, state, batches)
  assert len(traces) == 2, traces
  assert jnp.isfinite(harness.flat(params, 0)).all()
