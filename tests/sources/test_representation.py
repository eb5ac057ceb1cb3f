"""Heads that are pulled back by themselves: values, and what cannot spread."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import normal

import optax_mtl
from optax_mtl.sources import representation

#: Which leaves the trunk reads; `both` is read by a head too.
TRUNK = {
  "a": True,
  "b": True,
  "both": True,
  "heads": False,
  "neck": False,
  "unused": False,
}
#: Some of what the trunk reads takes no weights.
PART = dict.fromkeys(TRUNK, False) | {"a": True}
NAMES = ["alone", "deep", "pooled", "wave"]
T = len(NAMES)
WEIGHTS = jnp.array([0.5, -1.0, 2.0, 3.0])


def params_of(dtype):
  params = {
    "a": normal(0, 3, 4),
    "b": jax.lax.complex(normal(1, 4, 4), normal(2, 4, 4)),
    "both": normal(3, 1, 4),
    "heads": [normal(4, 4, 4), normal(5, 4), normal(6, 2)],
    "neck": normal(7, 1, 4),
    "unused": normal(8, 2),
  }
  wide = dtype == "float64"
  return jax.tree.map(
    lambda x: x.astype(
      ("complex128" if wide else "complex64") if jnp.iscomplexobj(x) else dtype
    ),
    params,
  )


def trunk(params, x):
  """Two leaves, one of them complex."""
  y = jnp.tanh(x @ params["a"]) * params["both"]
  z = {
    "map": y.astype(params["b"].dtype) @ params["b"],
    "pooled": jnp.mean(jnp.sin(y), axis=0),
  }
  return z, {"mean": jnp.mean(y)}


def heads(params, z, x):
  """One reads no representation, one a part, two a common neck."""
  own = params["heads"]
  wave = jnp.abs(z["map"]) * params["neck"]
  losses = {
    "deep": jnp.mean((jnp.sin(wave @ own[0]) * params["both"]) ** 2),
    "pooled": jnp.sum((z["pooled"] - own[1]) ** 2),
    "wave": jnp.mean(wave) + jnp.sum(jnp.cos(z["pooled"])),
    "alone": jnp.sum(own[2] ** 3),
  }
  return losses, "kept"


def gradients(params, x):
  """By `jax.grad`, task by task: at the params, and at the representation."""
  z = trunk(params, x)[0]
  at_params, at_z = [], []
  for name in NAMES:
    at_params.append(
      jax.grad(lambda p, n=name: heads(p, trunk(p, x)[0], x)[0][n])(params)
    )
    at_z.append(jax.grad(lambda z, n=name: heads(params, z, x)[0][n])(z))
  stack = functools.partial(jax.tree.map, lambda *rows: jnp.stack(rows))
  return stack(*at_params), stack(*at_z)


@functools.cache
def expected():
  """`gradients` of the problem below, in float64."""
  with jax.enable_x64(True):
    return jax.jit(gradients)(params_of("float64"), inputs("float64"))


def inputs(dtype):
  return normal(9, 5, 3).astype(dtype)


SHARED = [(None, "sum"), (TRUNK, "sum"), (TRUNK, "weighted"), (PART, "sum")]


def everything(params, x):
  """What can be asked of the gradients, for each way to say what is shared."""
  results = []
  for shared, rest in SHARED:
    (losses, aux), grads = optax_mtl.value_and_representation_grads(
      trunk, heads, has_aux=True, shared=shared, heads=rest
    )(params, x)
    assert isinstance(grads, representation.ApartTaskGradients)
    assert grads.names == tuple(NAMES) and aux[1] == "kept"
    results.append(grads.combine(WEIGHTS.astype(x.dtype)))
  sums = grads.map_gradients(lambda row: [jnp.sum(leaf) for leaf in row])
  return (
    (losses, aux[0]),
    results,
    (grads.gram(), grads.squared_norms(), sums),
    (grads.finite(), grads.stacked(), grads.gradient_of(1)),
  )


@pytest.mark.parametrize("jit", [True, False])
def test_all_that_can_be_asked_is_that_of_grad(jit):
  """Each to the last of float64's digits but three."""
  close = functools.partial(
    jax.tree.map,
    functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
  )
  with jax.enable_x64(True):
    params, x = params_of("float64"), inputs("float64")
    run = jax.jit(everything) if jit else everything
    values, combined, measured, at_params = run(params, x)
    rows, at_z = expected()
    close(
      values, (heads(params, trunk(params, x)[0], x)[0], trunk(params, x)[1])
    )
    for (shared, rest), got in zip(SHARED, combined, strict=True):
      head_weights = WEIGHTS if rest == "weighted" else jnp.ones(T)
      flags = dict.fromkeys(TRUNK, True) if shared is None else shared
      want = {
        name: jax.tree.map(
          lambda leaf, w=WEIGHTS if flags[name] else head_weights: (
            jnp.tensordot(w.astype(leaf.dtype), leaf, 1)
          ),
          rows[name],
        )
        for name in rows
      }
      close(got, want)
    flat = np.concatenate(
      [leaf.reshape(T, -1) for leaf in jax.tree.leaves(at_z)], axis=1
    )
    gram = (flat @ flat.conj().T).real
    sums = [leaf.reshape(T, -1).sum(axis=1) for leaf in jax.tree.leaves(at_z)]
    close(measured, (gram, np.diag(gram), sums))
    finite, stacked, one = at_params
    assert finite.all()
    close(stacked, rows)
    close(one, jax.tree.map(lambda leaf: leaf[1], rows))
    # The loss that reads no representation has no gradient there.
    np.testing.assert_array_equal(gram[0], np.zeros(T))


def test_within_vmap_and_scan():
  """Training several seeds at once is training one after another."""
  x = inputs("float32")
  grads_of = optax_mtl.value_and_representation_grads(
    trunk, heads, has_aux=True, shared=TRUNK
  )

  def train(scale):
    params = params_of("float32")
    params = jax.tree.map(lambda p: p * scale.astype(p.dtype), params)

    def step(params, _):
      (losses, _), grads = grads_of(params, x)
      update = grads.combine(grads.squared_norms() + 1)
      new = jax.tree.map(lambda p, u: p - 1e-3 * u, params, update)
      return new, losses["deep"]

    return jax.lax.scan(step, params, None, length=3)

  scales = jnp.array([0.5, 1.0])
  got = jax.jit(jax.vmap(train))(scales)
  one = jax.jit(train)
  want = [one(scale) for scale in scales]
  # Three steps of a few dozen roundings each.
  jax.tree.map(
    lambda a, *b: np.testing.assert_allclose(
      a, np.stack(b), rtol=1e-4, atol=1e-5
    ),
    got,
    *want,
  )


@pytest.mark.parametrize("shared", [None, {"trunk": True, "heads": False}])
@pytest.mark.parametrize("jit", [True, False])
def test_a_nan_stays_in_its_loss(shared, jit):
  """The square root's derivative at zero is inf, and 0 times inf is NaN."""

  def losses(params, z, x):
    return {
      "a": jnp.sum(z * params["heads"][0]),
      "bad": jnp.sum(jnp.sqrt(z - z)) + jnp.sum(params["heads"][1]),
      "c": jnp.sum(z**2),
    }

  params = {"trunk": jnp.ones(2), "heads": [jnp.ones(2), jnp.ones(2)]}
  grads_of = optax_mtl.value_and_representation_grads(
    lambda p, x: p["trunk"] * x, losses, shared=shared
  )

  def run(params, x):
    values, grads = grads_of(params, x)
    tx = optax_mtl.drop_nonfinite(optax_mtl.equal_weighting(3))
    update, _ = tx.update(grads, tx.init(params), params, losses=values)
    return update, grads.gram(), grads.finite()

  run = jax.jit(run) if jit else run
  update, gram, finite = run(params, jnp.array([1.0, 2.0]))
  assert finite.tolist() == [True, False, True]
  np.testing.assert_array_equal(update["trunk"], [1.0 + 2.0, 2.0 + 8.0])
  np.testing.assert_array_equal(update["heads"], [[1.0, 2.0], [0.0, 0.0]])
  assert np.isfinite(gram[np.ix_([0, 2], [0, 2])]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_representation_in_half_precision(dtype):
  """Weights that it does not hold do not pass through its dtype."""
  rows = jnp.array([[300.0, 1.0], [-299.0, 1.0]])
  grads_of = optax_mtl.value_and_representation_grads(
    lambda p: p.astype(dtype),
    lambda _, z: [jnp.sum(row * z.astype(jnp.float32)) for row in rows],
  )

  @jax.jit
  def run(params, weights):
    _, grads = grads_of(params)
    return grads.gram(), jax.vmap(grads.combine)(weights)

  weights = np.array([[0.5, 0.25], [1e5, 3e9], [1e-30, 2e-36], [0, 0]], "f4")
  gram, combined = run(jnp.zeros(2), weights)
  held = np.asarray(rows.astype(dtype), np.float64)
  np.testing.assert_array_equal(gram, held @ held.T)
  # The sum is rounded to the representation's dtype once, and by a sum in
  # float32 before.
  expected = weights.astype(np.float64) @ held
  np.testing.assert_allclose(combined, expected, rtol=jnp.finfo(dtype).eps)


def decoders(num_tasks, width=64):
  """A trunk of three layers, and as many for each task."""
  params = {
    "trunk": [normal(i, width, width) / 8 for i in range(3)],
    "heads": [
      [normal(10 * t + i, width, width) / 8 for i in range(3)]
      for t in range(num_tasks)
    ],
  }

  def run(kernels, x):
    for kernel in kernels:
      x = jnp.tanh(x @ kernel)
    return x

  def of_trunk(params, x):
    return run(params["trunk"], x)

  def of_heads(params, z, x):
    return [jnp.mean(run(head, z) ** 2) for head in params["heads"]]

  return params, of_trunk, of_heads


def cost(function, *args):
  """FLOPs and bytes of temporary memory of the compiled program."""
  program = jax.jit(function).lower(*args).compile()
  flops = program.cost_analysis()["flops"]
  return flops, program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("num_tasks", [3, 5, 8])
def test_a_step_costs_what_the_summed_loss_costs(num_tasks):
  """In FLOPs and in memory: each head is pulled back once."""
  params, of_trunk, of_heads = decoders(num_tasks)
  grads_of = optax_mtl.value_and_representation_grads(
    of_trunk, of_heads, shared={"trunk": True, "heads": False}
  )
  method = optax_mtl.mgda(num_tasks)

  def plain(params, x):
    loss = lambda p: sum(of_heads(p, of_trunk(p, x), x))  # noqa: E731
    return jax.value_and_grad(loss)(params)

  def step(params, x):
    values, grads = grads_of(params, x)
    update, _ = method.update(grads, method.init(params), params)
    return values, update

  x = normal(99, 512, 64)
  flops, memory = cost(plain, params, x)
  step_flops, step_memory = cost(step, params, x)
  # What is no product with a kernel: the Gram matrix and the weighted sum at
  # the representation, some (T + 2) / 64 of one product for each task, which
  # has nine products; the solver; and a stack of T representations, which takes
  # the place of what the heads kept.
  assert step_flops < 1.05 * flops
  assert step_memory < 1.05 * memory


@pytest.mark.parametrize("case", ["vector", "many", "chunks"])
def test_losses_that_are_not_taken_apart(case):
  """One program pulls them all back, for each task in turn."""
  options = {"chunk_size": 2} if case == "chunks" else {}
  number = 17 if case == "many" else 3

  def losses(params, z):
    terms = [jnp.sum(z * z[t]) * params["head"] for t in range(number)]
    return jnp.stack(terms) * 1 if case == "vector" else terms

  params = {"trunk": normal(0, number), "head": jnp.ones(())}
  grads_of = optax_mtl.value_and_representation_grads(
    lambda p: jnp.sin(p["trunk"]), losses, **options
  )

  @jax.jit
  def run(params):
    _, grads = grads_of(params)
    assert isinstance(grads, representation.TogetherTaskGradients)
    return grads.gram(), grads.combine(jnp.arange(1.0, number + 1))

  gram, combined = run(params)
  z = np.sin(np.asarray(params["trunk"], np.float64))
  # Of z_t times the sum of z.
  rows = z[:, None] + z.sum() * np.eye(number)
  at_params = np.arange(1, number + 1) @ rows * np.cos(params["trunk"])
  np.testing.assert_allclose(gram, rows @ rows.T, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(combined["trunk"], at_params, rtol=1e-4, atol=1e-3)
