"""Sources of task gradients: the same Gram matrix, the same update.

Four sources on three networks: an MLP, a CNN with batch statistics, and a small
attention model.
"""

import functools
import itertools

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import NETWORKS, T, head_losses, network

import optax_mtl
from optax_mtl._dtypes import solver_dtype

WEIGHTS = np.array([0.2, -1.0, 3.0])
SHARED = {"trunk": True, "heads": False}


def summary(grads_of, params, x, has_aux, mask=False):
  """Losses, aux, Gram matrix and combination, of one jitted call."""

  @jax.jit
  def run(params, x):
    value, grads = grads_of(params, x)
    grads = optax_mtl.sources.as_task_gradients(grads, T, params)
    losses, aux = value if has_aux else (value, None)
    weights = jnp.asarray(WEIGHTS, solver_dtype())
    shared, head_weights = None, None
    if mask:
      shared = {"trunk": jax.tree.map(lambda _: True, params["trunk"])}
      shared["heads"] = False
      head_weights = jnp.ones(T, solver_dtype())
    combined = grads.combine(weights, shared=shared, head_weights=head_weights)
    return losses, aux, grads.gram(shared), combined, grads.finite()

  return run(params, x)


@functools.cache
def reference(kind):
  """Losses, aux and Jacobian by `jax.jacrev`, in float64."""
  params, x, loss_fn, has_aux, _ = network(kind)
  with jax.enable_x64(True):
    double = lambda tree: jax.tree.map(  # noqa: E731
      lambda a: jnp.asarray(np.asarray(a, np.float64)), tree
    )
    params, x = double(params), double(x)
    losses, jacobian = jax.jit(
      lambda p, x: (loss_fn(p, x), jax.jacrev(loss_fn, has_aux=has_aux)(p, x))
    )(params, x)
    jacobian = jacobian[0] if has_aux else jacobian
    aux = losses[1] if has_aux else None
    return jax.device_get((losses[0] if has_aux else losses, aux, jacobian))


#: Network, source and chunk size. The code that takes tasks in chunks is one,
#: whatever the network: the MLP is taken through all of it. Convolutions are
#: written anew where tasks are taken in turn: one by one, and two at once.
CHUNKED = [
  *itertools.product(["mlp"], ["stacked", "implicit"], [None, 1, 2, T]),
  *[("cnn", "stacked", None), ("cnn", "stacked", 1)],
  *[("cnn", "implicit", 1), ("cnn", "implicit", 2)],
  *[("attention", "stacked", None), ("attention", "stacked", 2)],
  *[("attention", "implicit", None), ("attention", "implicit", 1)],
]


def test_every_network_has_every_source():
  some = {(kind, source) for kind, source, _ in CHUNKED}
  assert some == set(itertools.product(NETWORKS, ["stacked", "implicit"]))


@pytest.mark.parametrize("kind, source, chunk_size", CHUNKED)
def test_sources_agree(kind, source, chunk_size):
  params, x, loss_fn, has_aux, _ = network(kind)
  grads_of = optax_mtl.value_and_task_grads(
    loss_fn, has_aux=has_aux, source=source, chunk_size=chunk_size
  )
  mask = chunk_size == 1
  losses, aux, gram, combined, finite = summary(
    grads_of, params, x, has_aux, mask
  )
  want_losses, want_aux, jacobian = reference(kind)
  # A few dozen roundings of float32 on each path.
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  if has_aux:
    for key in want_aux:
      np.testing.assert_allclose(aux[key], want_aux[key], rtol=1e-4, atol=1e-5)
  rows = harness.flat(jacobian["trunk"] if mask else jacobian, 1)
  norms = np.linalg.norm(rows, axis=1)
  harness.assert_close(gram, rows @ rows.T, np.outer(norms, norms), 1e-5)
  np.testing.assert_array_equal(gram, np.asarray(gram).T)
  trunk = WEIGHTS @ harness.flat(jacobian["trunk"], 1)
  head_weights = np.ones(T) if mask else WEIGHTS
  heads = head_weights @ harness.flat(jacobian["heads"], 1)
  size = np.linalg.norm(harness.flat(jacobian, 1), axis=1) @ np.abs(WEIGHTS)
  harness.assert_close(harness.flat(combined["trunk"], 0), trunk, size, 1e-5)
  harness.assert_close(harness.flat(combined["heads"], 0), heads, size, 1e-5)
  assert np.asarray(finite).all()


@functools.cache
def rows_at_representation(kind):
  """The losses' gradients at `Z`, flattened, [T, N]."""
  params, x, _, has_aux, (trunk, _) = network(kind)

  @jax.jit
  def rows(params, x):
    z = trunk(params, x)
    z = z[0] if has_aux else z
    return jax.jacrev(lambda z: head_losses(params, z))(z).reshape(T, -1)

  return np.asarray(rows(params, x), np.float64)


@pytest.mark.parametrize(
  "kind, chunk_size",
  [("mlp", None), ("mlp", 1), ("cnn", 1), ("attention", None)],
)
def test_representation(kind, chunk_size):
  """The Gram matrix at `Z`; the combination is the params' own."""
  params, x, loss_fn, has_aux, (trunk, heads) = network(kind)
  grads_of = optax_mtl.value_and_representation_grads(
    trunk, heads, has_aux=has_aux, chunk_size=chunk_size
  )
  losses, aux, gram, combined, finite = summary(grads_of, params, x, has_aux)
  want_losses, want_aux, jacobian = reference(kind)
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  if has_aux:
    trunk_aux, heads_aux = aux
    assert heads_aux is None
    np.testing.assert_allclose(
      trunk_aux["mean"], want_aux["mean"], rtol=1e-4, atol=1e-5
    )
  at_z = rows_at_representation(kind)
  norms = np.linalg.norm(at_z, axis=1)
  harness.assert_close(gram, at_z @ at_z.T, np.outer(norms, norms), 1e-5)
  expected = WEIGHTS @ harness.flat(jacobian, 1)
  size = np.linalg.norm(harness.flat(jacobian, 1), axis=1) @ np.abs(WEIGHTS)
  harness.assert_close(harness.flat(combined, 0), expected, size, 1e-5)
  assert np.asarray(finite).all()


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_argnums_kwargs_and_containers(source):
  """Two arguments differentiated, negative numbers, a dict of losses."""

  def loss_fn(a, x, b, *, scale):
    return {"two": jnp.sum(a * x) * scale, "one": jnp.sum(b**2)}

  grads_of = optax_mtl.value_and_task_grads(
    loss_fn, argnums=(0, -1), source=source
  )
  a, x, b = jnp.ones(2), jnp.array([1.0, 2.0]), jnp.array([3.0])
  losses, grads = grads_of(a, x, b, scale=2.0)
  # The rows by sorted key: "one", then "two".
  assert losses == {"one": 9.0, "two": 6.0}
  if source == "implicit":
    grads = grads.stacked()
  np.testing.assert_allclose(grads[0], [[0.0, 0.0], [2.0, 4.0]])
  np.testing.assert_allclose(grads[1], [[6.0], [0.0]])


def test_losses_as_array_sequence_or_dict():
  base = lambda p: jnp.stack([jnp.sum(p), jnp.sum(p**2)])  # noqa: E731
  kinds = [
    base,
    lambda p: list(base(p)),
    lambda p: tuple(base(p)),
    lambda p: dict(zip("ab", base(p), strict=True)),
  ]
  for kind in kinds:
    losses, grads = optax_mtl.value_and_task_grads(kind)(jnp.ones(2))
    if isinstance(losses, dict):
      assert list(losses) == ["a", "b"]
      losses = jnp.stack(list(losses.values()))
    np.testing.assert_array_equal(losses, [2.0, 2.0])
    np.testing.assert_array_equal(grads, [[1.0, 1.0], [2.0, 2.0]])


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_a_function_with_a_rule_for_reverse_mode_only(source):
  """The implicit source pushes tangents forward without a forward-mode rule."""

  @jax.custom_vjp
  def steep(x):
    return jnp.sign(x)

  steep.defvjp(lambda x: (jnp.sign(x), x), lambda x, g: (g / (1 + x**2),))

  def loss_fn(p):
    return jnp.stack([jnp.sum(6 * steep(p)), jnp.sum(2 * steep(p))])

  _, grads = optax_mtl.value_and_task_grads(loss_fn, source=source)(jnp.ones(2))
  grads = optax_mtl.sources.as_task_gradients(grads, 2)
  np.testing.assert_allclose(grads.gram(), [[18.0, 6.0], [6.0, 2.0]])


def test_mixed_dtypes_of_params_and_losses():
  """Gradients in the params' dtypes, the Gram matrix in the solver's."""
  params = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)}

  def loss_fn(p):
    return [jnp.sum(p["a"]), jnp.sum(p["b"])]

  for source in ("stacked", "implicit"):
    losses, grads = optax_mtl.value_and_task_grads(loss_fn, source=source)(
      params
    )
    assert losses.dtype == jnp.float32
    grads = optax_mtl.sources.as_task_gradients(grads, 2, params)
    assert grads.gram().dtype == solver_dtype()
    np.testing.assert_allclose(grads.gram(), np.diag([3.0, 2.0]))
    combined = grads.combine(jnp.array([2.0, 3.0]))
    assert combined["a"].dtype == jnp.bfloat16
    assert combined["b"].dtype == jnp.float32


@pytest.mark.parametrize("kind", ["implicit", "representation"])
def test_a_task_whose_gradient_overflows_can_be_left_out(kind):
  def heads(params, z):
    steep = jnp.square(1e20 * jnp.sum(z))
    return jnp.stack([jnp.sum(z), steep, jnp.sum(z**2)])

  params = jnp.ones(2)
  if kind == "implicit":
    grads_of = optax_mtl.value_and_task_grads(
      lambda p: heads(p, p), source="implicit"
    )
  else:
    grads_of = optax_mtl.value_and_representation_grads(lambda p: p, heads)
  tx = optax_mtl.drop_nonfinite(optax_mtl.equal_weighting(T))

  @jax.jit
  def run(params):
    _, grads = grads_of(params)
    return grads.finite(), tx.update(grads, tx.init(params), params)

  finite, (updates, state) = run(params)
  assert [bool(f) for f in finite] == [True, False, True]
  np.testing.assert_array_equal(state.weights, [1.0, 0.0, 1.0])
  np.testing.assert_allclose(updates, [3.0, 3.0])


@pytest.mark.parametrize("source,rest", [("stacked", 0), ("implicit", np.nan)])
def test_an_absent_label_that_is_replaced_does_no_harm(source, rest):
  """What the docstring asks for: else the NaN spoils the others."""
  labels = jnp.array([1.0, jnp.nan, 2.0])

  def loss_fn(params, mask):
    kept = jnp.where(jnp.isnan(labels) & mask, jnp.zeros_like(labels), labels)
    return jnp.square(jnp.sum(params) - kept)

  grads_of = optax_mtl.value_and_task_grads(loss_fn, source=source)
  tx = optax_mtl.equal_weighting(T)
  drops = optax_mtl.drop_nonfinite(tx)
  params, active = jnp.ones(2), ~jnp.isnan(labels)
  for mask in (True, False):
    _, grads = grads_of(params, mask)
    updates, state = tx.update(grads, tx.init(params), params, active=active)
    dropped, _ = drops.update(grads, state, params)
    if mask:
      np.testing.assert_allclose(updates, [2.0, 2.0])
    else:
      assert np.isnan(updates).all()
      np.testing.assert_array_equal(dropped, [rest, rest])


# Every kind of rule with every source that is no plain tree.
ACTIVE = np.array([True, False, True])


def one_steps_extra_args():
  row = harness.row_of(harness.data(num_steps=1), 0)
  extra = {k: v for k, v in row.extra.items() if k != "losses"}
  return {k: jnp.asarray(v, solver_dtype()) for k, v in extra.items()}


def rows_of_the_trunk():
  return harness.flat(reference("mlp")[2]["trunk"], 1)


@functools.cache
def one_step(name):
  """Weights and updates of one step with each source, task 1 absent.

  And the weights for plain trees with the same Gram matrices, at the params and
  at the representation. One program for all.
  """
  params, x, loss_fn, _, (trunk, heads) = network("mlp")
  tx = harness.build(name)
  sources = {
    "trunk": optax_mtl.value_and_task_grads(loss_fn, shared=SHARED),
    "implicit": optax_mtl.value_and_task_grads(
      loss_fn, source="implicit", shared=SHARED
    ),
    "representation": optax_mtl.value_and_representation_grads(
      trunk, heads, shared=SHARED
    ),
  }
  # Rows of length T with the same Gram matrix.
  factors = [
    jnp.asarray(np.linalg.qr(rows.T, mode="r").T, jnp.float32)
    for rows in (rows_of_the_trunk(), rows_at_representation("mlp"))
  ]

  @jax.jit
  def run(params, x, active, extra):
    def update(losses, grads, params):
      extra_args = extra | {"losses": losses, "active": active}
      return tx.update(grads, tx.init(params), params, **extra_args)

    out = {}
    for kind, grads_of in sources.items():
      losses, grads = grads_of(params, x)
      updates, state = update(losses, grads, params)
      out[kind] = updates, state.weights
    expected = [update(losses, f, jnp.zeros(T))[1].weights for f in factors]
    return out, expected

  return jax.device_get(
    run(params, x, jnp.asarray(ACTIVE), one_steps_extra_args())
  )


@pytest.mark.parametrize("name", harness.weighing_kinds)
@pytest.mark.parametrize("kind", ["trunk", "implicit", "representation"])
def test_every_kind_of_rule_with_every_source(name, kind):
  """The weights are those for the Gram matrix; trunk and heads get theirs."""
  out, (at_params, at_representation) = one_step(name)
  updates, weights = out[kind]
  expected = at_representation if kind == "representation" else at_params
  # The Gram matrix to rounding; the two tasks' gradients are independent.
  size = max(np.abs(expected).max(), 1)
  harness.assert_close(weights, expected, size, 1e-4)
  rows = rows_of_the_trunk()
  sizes = np.linalg.norm(rows, axis=1)
  applied = np.asarray(weights, np.float64)
  # A limited norm is the update's, at the params.
  applied = harness.limited(name, applied[None], rows[None])[0]
  harness.assert_close(
    harness.flat(updates["trunk"], 0),
    applied @ rows,
    np.abs(applied) @ sizes + 1e-6,
    1e-5,
  )
  plain = ACTIVE @ harness.flat(reference("mlp")[2]["heads"], 1)
  harness.assert_close(
    harness.flat(updates["heads"], 0), plain, np.abs(plain).max(), 1e-5
  )
