"""Dense prediction: sources, BatchNorm, recipes, and a short training."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl
from benchmarks.dense import (
  compare,
  network_nnx,
  problem,
  recipes,
  report,
  trainer,
)
from benchmarks.dense.tasks import TASKS
from benchmarks.dense.trainer import Settings, batches, make_step
from benchmarks.dense.training import Run

#: For what runs once: the compiler's best would take longer.
once = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@pytest.fixture(scope="module")
def small():
  """Two tasks, and a network of a few channels."""
  return problem.build(
    ("depth", "segmentation"),
    num_train=8,
    num_held_out=2,
    size=8,
    widths=(3, 4, 3),
  )


def shapes_of(tree):
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


# -- the network and its sources -----------------------------------------------


def without(batch, name):
  """The batch with no label of a task, and nonsense in their place."""
  labels = batch["labels"] | {name: jnp.full_like(batch["labels"][name], 1e30)}
  masks = batch["masks"] | {name: jnp.zeros_like(batch["masks"][name])}
  return batch | {"labels": labels, "masks": masks}


@pytest.mark.standard_promotion
def test_all_sources_see_one_update_of_the_statistics(small):
  """Stacked, implicit, representation: the same step, in one program.

  With weights that do not depend on where gradients are measured, all three
  give one update. The last batch has no depth.
  """
  params, stats = once(small.init)(jax.random.key(0))
  tx = optax_mtl.fixed_weighting(2, {"depth": 0.3, "segmentation": 2.0})

  @once
  def steps(params, stats, batch):
    found = {}
    for source in ("stacked", "implicit", "representation"):
      (losses, (new, kpis)), grads = small.value_and_grads(source)(
        params, stats, batch
      )
      updates, _ = tx.update(
        grads,
        tx.init(params),
        params,
        losses=losses,
        active=small.active(batch),
      )
      found[source] = updates, losses, kpis, new
    _, reference = small.model.apply(params, stats, batch["image"], True)
    return found, reference

  whole = problem.sample(small.train, np.arange(4))
  for absent, batch in ((False, whole), (True, without(whole, "depth"))):
    found, reference = steps(params, stats, batch)
    for leaf in jax.tree.leaves(found):
      assert jnp.isfinite(leaf).all()
    stacked = found.pop("stacked")
    for other in found.values():
      for a, b in zip(*map(jax.tree.leaves, (other, stacked)), strict=True):
        # float32 through eight layers, with BatchNorm over 16 to 64 values.
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    # Moved once from their start, trunk and heads, by one forward pass.
    updates, *_, new = stacked
    for a, b, start in zip(
      *map(jax.tree.leaves, (new, reference, stats)), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
      assert (a != start).any()
    idle = [
      bool((x == 0).all()) for x in jax.tree.leaves(updates["heads_depth"])
    ]
    assert all(idle) if absent else not any(idle)


@pytest.mark.standard_promotion
def test_the_representations_gram_matrix_is_that_of_the_features(small):
  """MGDA-UB measures at what `encode` returns, and nowhere else."""
  params, stats = once(small.init)(jax.random.key(1))
  batch = problem.sample(small.train, np.arange(4))

  @once
  def both(params, stats, batch):
    _, grads = small.value_and_grads("representation")(params, stats, batch)

    def losses(features):
      outputs, _ = small.model.decode(params, stats, features, True)
      by_task, _ = small.losses_and_kpis(outputs, batch)
      return [by_task[name] for name in small.tasks]

    features, _ = small.model.encode(params, stats, batch["image"], True)
    _, pullback = jax.vjp(losses, features)
    rows = [
      jnp.concatenate(
        [leaf.ravel() for leaf in jax.tree.leaves(pullback([a, 1 - a]))]
      )
      for a in (jnp.ones(()), jnp.zeros(()))
    ]
    rows = jnp.stack(rows)
    return grads.gram(), rows @ rows.T

  ours, expected = both(params, stats, batch)
  np.testing.assert_allclose(ours, expected, rtol=1e-4)


@pytest.mark.standard_promotion
def test_linen_and_nnx_are_one_network(small):
  """NNX's functions on linen's params: the same outputs and statistics."""
  params, stats = once(small.init)(jax.random.key(2))
  channels = {name: TASKS[name].channels for name in small.tasks}
  nnx = network_nnx.nnx_model(channels, (3, 4, 3))

  def renamed(tree):
    heads = {name: tree[f"heads_{name}"] for name in channels}
    return {"trunk": tree["trunk"], "heads": heads}

  @once
  def both(params, stats, images):
    linen = small.model.apply(params, stats, images, True)
    return linen, nnx.apply(renamed(params), renamed(stats), images, True)

  images = small.train["image"][:4]
  (outputs, new), (others, new_nnx) = both(params, stats, images)
  new = renamed(new)
  assert jax.tree.structure(new) == jax.tree.structure(new_nnx)
  pairs = zip(
    jax.tree.leaves((outputs, new)),
    jax.tree.leaves((others, new_nnx)),
    strict=True,
  )
  for a, b in pairs:
    # The same sums, perhaps in another order.
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  like = jax.eval_shape(nnx.init, jax.random.key(0), images)
  assert shapes_of(like) == shapes_of((renamed(params), renamed(stats)))
  for model, tree in ((small.model, params), (nnx, renamed(params))):
    assert sum(jax.tree.leaves(model.last_shared(tree))) == 1
    assert sum(jax.tree.leaves(model.shared(tree))) == 1


# -- recipes -------------------------------------------------------------------


#: Leaves as the network names them, and losses and the like.
LEAVES = {
  "trunk": {"block_3": {"conv": jnp.ones((2, 3))}},
  "heads_depth": {"out": jnp.ones((2, 2))},
}
NUMBERS = {"depth": jnp.full((), 0.5), "segmentation": jnp.full((), 0.5)}


@pytest.mark.standard_promotion
@pytest.mark.parametrize(
  "label",
  [*recipes.LABELS[1:], "mgda-ub-refreshed-weighted", "equal_weighting-sgd"],
)
def test_every_row_has_a_recipe(small, label):
  """Shapes alone: nothing is compiled."""
  recipe = recipes.recipe(label, small, 10, 2)
  params = jax.tree.map(lambda leaf: leaf[0], LEAVES)
  extra = {
    "losses": NUMBERS,
    **dict.fromkeys(recipe.passes, NUMBERS),
  }

  def update(point):
    tx = recipe.build(point)
    return tx.update(LEAVES, tx.init(params), params, **extra)[0]

  point = jnp.asarray(recipe.points[0], jnp.float32)
  assert shapes_of(jax.eval_shape(update, point)) == shapes_of(params)
  assert recipe.heads == ("weighted" if "weighted" in label else "sum")
  assert (recipe.source == "representation") == ("-ub" in label)
  assert (recipe.optimizer is optax.adam) == ("-sgd" not in label)
  assert (recipe.rate_factor == 1) == ("-sgd" not in label)


@pytest.mark.standard_promotion
@pytest.mark.parametrize(
  "label", ["famo", "dtp-ub-weighted", "mgda-refreshed-sgd"]
)
def test_a_step_returns_what_it_takes(small, label):
  """So that it can be called again; shapes alone."""
  settings = Settings(10, 4, 1, 5, (1e-3,))
  recipe = recipes.recipe(label, small, 10, 2)
  init, step = make_step(small, recipe, settings)
  params, stats = jax.eval_shape(small.init, jax.random.key(0))
  carry = jax.eval_shape(init, params, stats, jnp.zeros(1))
  after = jax.eval_shape(
    step,
    carry,
    jnp.zeros(1),
    jnp.zeros(()),
    small.train,
    jnp.zeros(4, jnp.int32),
  )
  assert shapes_of(after) == shapes_of(carry)


def test_a_single_task_has_a_network_with_one_decoder(small):
  alone = small.only("depth")
  params, _ = jax.eval_shape(alone.init, jax.random.key(0))
  whole, _ = jax.eval_shape(small.init, jax.random.key(0))
  assert sorted(params) == ["heads_depth", "trunk"]
  assert shapes_of(params) == shapes_of({name: whole[name] for name in params})
  assert list(alone.train["labels"]) == ["depth"]


def test_labels_that_are_no_method_are_named(capsys):
  assert recipes.is_known("cagrad-ub-weighted")
  for label in ("nonsense", "mgda-nonsense", "ntk_weighting"):
    with pytest.raises(SystemExit):
      compare.parse(["--methods", label])
    assert label in capsys.readouterr().err


def test_every_epoch_sees_every_image_once():
  settings = Settings(6, 4, 1, 3, (1e-3,))
  rows = batches(8, settings, 0)
  assert rows.shape == (6, 4)
  for epoch in rows.reshape(3, 8):
    assert sorted(epoch) == list(range(8))
  assert (batches(8, settings, 1) != rows).any()


# -- a comparison --------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(small, tmp_path_factory):
  """Single-task networks and equal weights for a few steps, two rates."""
  out = tmp_path_factory.mktemp("dense")
  argv = ["--methods", "equal_weighting", "--tasks", "depth,segmentation"]
  argv += ["--steps", "4", "--seeds", "2", "--rates", "1e-3,1e-2"]
  argv += ["--batch-size", "4", "--out", str(out)]
  with (
    jax.numpy_dtype_promotion("standard"),
    pytest.MonkeyPatch.context() as patch,
  ):
    patch.setattr(compare.problems, "build", lambda *args, **kwargs: small)
    patch.setattr(trainer, "_JIT", once)
    assert compare.main([*argv, "--markdown"]) == 0
  return out, argv


def test_writes_json_pictures_and_one_page(compared):
  out, _ = compared
  data = json.loads((out / "dense.json").read_text())
  assert list(data["rows"]) == ["single_task", "equal_weighting"]
  single, equal = data["rows"].values()
  assert np.shape(equal["test"]) == (2, 2) and len(equal["delta_m"]) == 2
  # Against its own mean.
  assert np.mean(single["delta_m"]) == pytest.approx(0, abs=1e-4)
  page = (out / "dense.html").read_text(encoding="utf-8")
  # Curves have names; the bars and the scene are pictures.
  assert page.count("data:image/png;base64,") == 2
  assert page.count("<svg") == 1
  assert 'src="http' not in page
  kept = json.loads((out / "dense_runs.json").read_text())["runs"]
  run = report.from_data(kept["equal_weighting"])
  assert run.validation.shape == (2, 4, 2)
  # Both rates were tried, and the one with the least score was taken.
  assert sorted(one[0] for one in run.tried) == [1e-3, 1e-2]
  assert run.rate[0] == min(run.tried, key=lambda one: one[1])[0]


def test_what_is_done_is_not_done_again(compared, small, monkeypatch):
  out, argv = compared

  def never(*args, **kwargs):
    raise AssertionError("Trained again.")

  shown = []
  monkeypatch.setattr(compare.problems, "build", lambda *args, **kwargs: small)
  monkeypatch.setattr(compare, "train", never)
  monkeypatch.setattr(compare, "show", lambda *args: shown.append(args[2]))
  assert compare.main(argv) == 0
  (runs,) = shown
  assert list(runs) == ["single_task", "equal_weighting"]
  # Other settings are another comparison.
  with pytest.raises(AssertionError, match="again"):
    compare.main([*argv, "--seeds", "1"])


def a_run(test):
  """A run from its test metrics [S, T]."""
  test = np.asarray(test, np.float64)
  return Run(
    np.array([1]), test[:, None], test[:, None], test[:, None], test,
    np.full(2, 1e-3), np.ones(2), [], {}, 2.0, 3.0, 1.0,
  )  # fmt: skip


def test_a_method_within_the_spread_is_shown_so(small):
  """Depth's error, and a mean intersection over union; three seeds."""
  base = np.array([[1.0, 0.50], [1.1, 0.45], [0.9, 0.55]])
  runs = {
    "single_task": a_run(base),
    "equal_weighting": a_run(base * [1.1, 0.9]),
    "fixed_weighting": a_run(base * [1.05, 0.95]),
    "mgda": a_run(base * np.array([[1.0, 1.0], [1.3, 0.7], [1.0, 0.9]])),
    "upgrad": a_run(base * [0.9, 1.1]),
  }
  rows = report.summarize(small, runs)
  verdicts = {
    label: row.standing and row.standing.verdict for label, row in rows.items()
  }
  assert verdicts["single_task"] is None
  assert verdicts["mgda"] == "even" and verdicts["upgrad"] == "better"
  assert rows["upgrad"].standing.wins == 1
  # Tenths of two metrics, at seeds that are not all the baseline's mean.
  assert rows["upgrad"].delta_m.mean() == pytest.approx(-10, abs=0.5)
  text = report.sentence(rows)
  assert "Of 2 methods 1 are better" in text and "upgrad" in text
  table = report.markdown(small, rows)
  assert table.count("\n") == 6 and "| even |" in table
