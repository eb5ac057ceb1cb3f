"""What every source offers a method: names, trunk, heads, masks."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import AS_USERS
from small_networks import normal

import optax_mtl
from optax_mtl.sources import TaskGradients, as_task_gradients

T = 3
PARAMS = {
  "trunk": {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])},
  "heads": [jnp.array([2.0]), jnp.array([-1.0]), jnp.array([0.25])],
}
TRUNK = {"trunk": True, "heads": False}
WEIGHTS = jnp.array([2.0, 0.5, -1.0])


def losses(params, x):
  z = jnp.sum(params["trunk"]["a"] * x) + jnp.sum(params["trunk"]["b"] ** 2)
  return {
    f"task {t}": jnp.sum(head) * z ** (t + 1)
    for t, head in enumerate(params["heads"])
  }


X = jnp.array([0.5, 0.25])


def rows():
  """The gradients by `jax.grad`, task by task."""
  each = [
    jax.grad(lambda p, t=t: losses(p, X)[t])(PARAMS) for t in losses(PARAMS, X)
  ]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def source(kind, **options):
  """Losses and task gradients of one kind."""
  if kind == "tree":
    return losses(PARAMS, X), as_task_gradients(rows(), T, PARAMS)
  if kind == "representation":
    grads_of = optax_mtl.value_and_representation_grads(
      lambda p, x: p["trunk"], lambda p, z, x: losses(p | {"trunk": z}, x)
    )
  elif kind == "task batches":

    def one(params, select, x):
      return select @ jnp.stack(list(losses(params, x).values()))

    batched = optax_mtl.value_and_task_batch_grads(
      one, in_axes=(0, None), **options
    )
    values, grads = batched(PARAMS, jnp.eye(T), X)
    return values, as_task_gradients(grads, T, PARAMS)
  else:
    grads_of = optax_mtl.value_and_task_grads(losses, source=kind, **options)
  values, grads = grads_of(PARAMS, X)
  return values, as_task_gradients(grads, T, PARAMS)


def assert_trees_close(got, want):
  # Products of a handful of numbers below 10.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    got,
    want,
  )


def weigh(weights, tree):
  return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), tree)


KNOW = ["stacked", "implicit", "task batches"]
ALL = ["tree", "representation", *KNOW]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("heads", ["sum", "weighted"])
def test_trunk_and_heads(kind, heads):
  """The same of all sources, whether told at the source or by `on_trunk`."""
  want = rows()
  trunk = harness.flat(want["trunk"], 1)
  forms = [source(kind)[1].on_trunk(TRUNK, heads)]
  if kind in KNOW:
    forms.append(source(kind, shared=TRUNK, heads=heads)[1])
    is_trunk = lambda p: {k: k == "trunk" for k in p}  # noqa: E731
    forms.append(source(kind, shared=is_trunk, heads=heads)[1])
  for grads in forms:
    assert isinstance(grads, TaskGradients) and grads.heads == heads
    assert jax.tree.leaves(grads.shared) == [False] * 3 + [True] * 2
    assert jax.tree.map(jnp.shape, PARAMS) == jax.tree.map(
      lambda like: like.shape, grads.params_like
    )
    if kind != "representation":
      np.testing.assert_allclose(grads.gram(), trunk @ trunk.T, rtol=1e-5)
    head_weights = WEIGHTS if heads == "weighted" else jnp.ones(T)
    expected = {
      "trunk": weigh(WEIGHTS, want["trunk"]),
      "heads": weigh(head_weights, want["heads"]),
    }
    assert_trees_close(grads.combine(WEIGHTS), expected)
    assert_trees_close(grads.stacked(), want)
    assert list(grads.finite()) == [True] * T
    # Without weights, and with a task left out.
    keep = jnp.array([True, False, True])
    update = jax.tree.map(jnp.zeros_like, PARAMS)
    expected = {
      "trunk": update["trunk"],
      "heads": weigh(keep.astype(jnp.float32), want["heads"]),
    }
    assert_trees_close(grads.with_heads(update, keep), expected)
    weights = jnp.where(keep, WEIGHTS, jnp.zeros(T))
    combined = grads.combine(weights, keep=keep)
    kept = keep.astype(jnp.float32) if heads == "sum" else weights
    assert_trees_close(combined["trunk"], weigh(weights, want["trunk"]))
    assert_trees_close(combined["heads"], weigh(kept, want["heads"]))


@pytest.mark.parametrize("kind", KNOW)
def test_a_choice_among_the_trunk(kind):
  """`gram` and `combine` take prefixes and callables, within the trunk."""
  want = rows()
  a = harness.flat(want["trunk"]["a"], 1)
  only_a = {"trunk": {"a": True, "b": False}, "heads": False}
  for grads in (source(kind, shared=TRUNK)[1], source(kind)[1]):
    for choice in (only_a, lambda _: only_a):
      np.testing.assert_allclose(grads.gram(choice), a @ a.T, rtol=1e-5)
      combined = grads.combine(
        WEIGHTS, shared=choice, head_weights=2 * jnp.ones(T)
      )
      expected = jax.tree.map(lambda leaf: 2 * jnp.sum(leaf, 0), want)
      expected["trunk"]["a"] = weigh(WEIGHTS, want["trunk"]["a"])
      assert_trees_close(combined, expected)
  grads = source(kind, shared=TRUNK)[1]
  for ask in (
    lambda mask: grads.gram(mask, name="norm_params"),
    lambda mask: grads.combine(WEIGHTS, shared=mask),
  ):
    with pytest.raises(
      ValueError, match=r"leaf \['heads'\]\[0\], which is not"
    ):
      ask({"trunk": False, "heads": [True, False, False]})
    with pytest.raises(ValueError, match="matches no leaf of the params"):
      ask(False)
  with pytest.raises(ValueError, match="norm_params= matches no leaf"):
    grads.gram(lambda params: False, name="norm_params")


def test_the_issues_gram_matrices():
  """A callable counted all leaves, in silence."""
  tree = {
    "trunk": jnp.array([[1.0, 1.0], [4.0, 8.0]]),
    "head": jnp.array([[3.0], [5.0]]),
  }
  grads = as_task_gradients(tree, 2)
  choice = lambda params: {"trunk": True, "head": False}  # noqa: E731
  np.testing.assert_array_equal(grads.gram(), [[11.0, 27.0], [27.0, 105.0]])
  np.testing.assert_array_equal(grads.gram(choice), [[2.0, 12.0], [12.0, 80.0]])


def test_what_a_trunk_refuses():
  message = r"shared= matches no leaf .* leaves are \['heads'\]\[0\], "
  for kind in KNOW:
    with pytest.raises(ValueError, match=message):
      source(kind, shared=lambda params: False)
    with pytest.raises(ValueError, match="heads must be one of"):
      source(kind, shared=TRUNK, heads="mean")
    with pytest.raises(ValueError, match="know their shared trunk already"):
      source(kind, shared=TRUNK)[1].on_trunk(TRUNK)
  for kind in ALL:
    with pytest.raises(ValueError, match=message):
      source(kind)[1].on_trunk(False)
    with pytest.raises(ValueError, match="heads must be one of"):
      source(kind)[1].on_trunk(TRUNK, "mean")
  with pytest.raises(ValueError, match="norm_params= chooses .* Leave norm_"):
    source("representation")[1].gram(TRUNK, name="norm_params")


@pytest.mark.parametrize("kind", ["stacked", "implicit", "representation"])
def test_losses_of_a_dict_keep_their_names(kind):
  options = {} if kind == "representation" else {"shared": TRUNK}
  values, grads = source(kind, **options)
  assert list(values) == ["task 0", "task 1", "task 2"]
  assert_trees_close(values, losses(PARAMS, X))
  assert all(jnp.shape(value) == () for value in values.values())
  assert grads.names == ("task 0", "task 1", "task 2")
  with pytest.raises(ValueError, match=r"3 tasks \(task 0, task 1, task 2\)"):
    as_task_gradients(grads, 2)


def test_losses_of_an_array_have_no_names():
  values, grads = optax_mtl.value_and_task_grads(
    lambda p: p * 2.0, source="implicit"
  )(jnp.ones(2))
  assert grads.names is None and values.shape == (2,)


def test_dicts_are_read_in_the_order_of_sorted_keys():
  def loss_fn(p):
    return {"t2": 2 * p[1], "t10": p[0]}

  values, grads = optax_mtl.value_and_task_grads(loss_fn, source="implicit")(
    jnp.ones(2)
  )
  assert values == {"t10": 1.0, "t2": 2.0} and grads.names == ("t10", "t2")
  np.testing.assert_array_equal(grads.stacked(), [[1.0, 0.0], [0.0, 2.0]])


def test_the_number_of_tasks_is_read_off_the_leaves():
  tree = {"a": jnp.ones((4, 2)), "b": jnp.ones(4)}
  assert as_task_gradients(tree, None).num_tasks == 4
  grads = source("implicit")[1]
  assert as_task_gradients(grads, None) is grads
  with pytest.raises(ValueError, match="cannot be read"):
    as_task_gradients({}, None)
  with pytest.raises(ValueError, match=r"leaf \['b'\] .* shape \[3\]"):
    as_task_gradients(tree | {"b": jnp.ones(3)}, None)


def heads_of_their_own(width, batch):
  """T heads of one layer each, over a trunk of one layer."""
  params = {
    "trunk": normal(0, width, width) / np.sqrt(width),
    "heads": [normal(t, width, width) / np.sqrt(width) for t in range(8)],
  }

  def loss_fn(params, x):
    z = jnp.tanh(x @ params["trunk"])
    return [jnp.mean(jnp.square(z @ head)) for head in params["heads"]]

  return params, loss_fn, normal(9, batch, width)


def test_a_source_that_knows_the_trunk_stores_no_stack_of_heads():
  """Temp memory and FLOPs of the compiled step, with one program for all."""
  params, loss_fn, x = heads_of_their_own(128, 16)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  trunk, num_tasks = params["trunk"].nbytes, 8
  weights = jnp.linspace(0.1, 1.0, num_tasks)

  def compiled(**options):
    def step(params, x):
      _, grads = optax_mtl.value_and_task_grads(loss_fn, **options)(params, x)
      grads = as_task_gradients(grads, num_tasks, params)
      if "shared" not in options:
        grads = grads.on_trunk(TRUNK)
      return grads.gram(), grads.combine(weights)

    return jax.jit(step).lower(params, x).compile(AS_USERS)

  together = {"chunk_size": num_tasks}
  stacked, knows = compiled(**together), compiled(shared=TRUNK)
  # T copies of all, against T of the trunk; the update itself is no temporary.
  # Half as much again for the activations and the slack of the allocator.
  assert stacked.memory_analysis().temp_size_in_bytes > num_tasks * size
  bound = 1.5 * num_tasks * trunk + size / 2
  assert knows.memory_analysis().temp_size_in_bytes < bound < 3 * size
  flops = lambda program: program.cost_analysis()["flops"]  # noqa: E731
  # Products, forward and backward: 9 + T (1 + 2 T) of the stack; 9 + 3 T where
  # each loss is pulled back by itself, 33 of 145.
  assert flops(knows) < 0.3 * flops(stacked)
  for a, b in zip(
    jax.tree.leaves(stacked(params, x)),
    jax.tree.leaves(knows(params, x)),
    strict=True,
  ):
    # Sums of 128 terms in another order.
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_a_task_whose_batch_is_nan_is_left_out(chunk_size):
  """Of the heads too: each task has a forward pass of its own."""

  def loss(params, x):
    z = jnp.sum(params["trunk"] * x)
    return jnp.sum(params["head"]) * z

  batches = jnp.array([[jnp.nan, 1.0], [1.0, 2.0], [0.5, 3.0]])
  params = {"trunk": jnp.ones(2), "head": jnp.ones(2)}
  grads_of = optax_mtl.value_and_task_batch_grads(
    loss, chunk_size=chunk_size, shared={"trunk": True, "head": False}
  )

  @jax.jit
  def run(params, batches, keep):
    _, grads = grads_of(params, batches)
    weights = jnp.where(keep, WEIGHTS, jnp.zeros(T))
    return grads.finite(), grads.combine(weights, keep=keep)

  keep = jnp.array([False, True, True])
  finite, combined = run(params, batches, keep)
  np.testing.assert_array_equal(finite, keep)
  # Twice the batch, the head being two ones; the head gets z of each.
  np.testing.assert_allclose(combined["trunk"], [0.0, -4.0])
  np.testing.assert_allclose(combined["head"], [6.5, 6.5])
  _, combined = run(params, batches, jnp.zeros(T, bool))
  np.testing.assert_array_equal(combined["head"], [0.0, 0.0])


@pytest.mark.parametrize("kind", KNOW)
def test_a_head_that_is_not_finite_shows(kind):
  def steep(params, x):
    values = losses(params, x)
    head = params["heads"][2][0]
    return values | {"task 2": jnp.square(1e20 * head)}

  if kind == "task batches":
    grads_of = optax_mtl.value_and_task_batch_grads(
      lambda p, select, x: jnp.sum(
        jnp.where(select, jnp.stack(list(steep(p, x).values())), 0.0)
      ),
      in_axes=(0, None),
      shared=TRUNK,
    )
    _, grads = grads_of(PARAMS, jnp.eye(T, dtype=bool), X)
  else:
    grads_of = optax_mtl.value_and_task_grads(steep, source=kind, shared=TRUNK)
    _, grads = grads_of(PARAMS, X)
  assert list(grads.finite()) == [True, True, False]


@pytest.mark.parametrize("kind", KNOW)
def test_chunks_of_leaves_without_entries(kind):
  """Three tasks in chunks of two: `jax.lax.map` divides by zero here."""

  def loss_fn(params, x):
    return [
      jnp.sum(params["a"] * x) * t + jnp.sum(params["b"]) for t in range(T)
    ]

  params, x = {"a": jnp.ones(2), "b": jnp.ones((0, 3))}, jnp.array([1.0, 2.0])
  if kind == "task batches":
    grads_of = optax_mtl.value_and_task_batch_grads(
      lambda p, select, x: select @ jnp.stack(loss_fn(p, x)),
      in_axes=(0, None),
      chunk_size=2,
    )
    _, grads = grads_of(params, jnp.eye(T), x)
  else:
    _, grads = optax_mtl.value_and_task_grads(
      loss_fn, source=kind, chunk_size=2
    )(params, x)
  rows = as_task_gradients(grads, T).stacked()
  np.testing.assert_array_equal(rows["a"], np.outer(range(T), x))
  assert rows["b"].shape == (T, 0, 3)
