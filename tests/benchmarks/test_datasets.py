"""The benchmarks' data and networks; no file outside the repository."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("sklearn")

import optax  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

from benchmarks.data import datasets  # noqa: E402
from benchmarks.networks import scores, trunk_and_heads  # noqa: E402

FILES = ("multimnist", "census", "arm7")
TASKS = {
  "digits": 2,
  "multimnist": 2,
  "census": 2,
  "arm7": 7,
  "uncertainty_toy": 2,
  "gradnorm_toy": 2,
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A folder with files laid out like the real ones, but tiny."""
  folder = tmp_path_factory.mktemp("data")
  rng = np.random.default_rng(0)
  arrays = {"multimnist": {}, "census": {}, "arm7": {}}
  cardinality = np.array([3, 5])
  for part, n in (("train", 40), ("test", 20)):
    arrays["multimnist"] |= {
      f"x_{part}": rng.integers(256, size=(n, 36, 36), dtype=np.uint8),
      f"left_{part}": rng.integers(10, size=n, dtype=np.uint8),
      f"right_{part}": rng.integers(10, size=n, dtype=np.uint8),
    }
    arrays["census"] |= {
      f"num_{part}": rng.normal(size=(n, 4)).astype(np.float32),
      f"cat_{part}": rng.integers(cardinality, size=(n, 2)).astype(np.int16),
      f"y_{part}": rng.integers(2, size=(n, 2), dtype=np.uint8),
    }
    arrays["arm7"] |= {
      f"x_{part}": rng.normal(3, 5, size=(n, 21)).astype(np.float32),
      f"y_{part}": rng.normal(size=(n, 7)).astype(np.float32),
    }
  arrays["census"]["cardinality"] = cardinality
  for name, content in arrays.items():
    np.savez(folder / f"{name}.npz", **content)
  return folder


@pytest.fixture(scope="module")
def digits():
  return datasets.load("digits")


def drawn(problem):
  """Params like those of `init`, drawn by NumPy.

  Normals of `jax.random` take half a second to compile for each new shape.
  """
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype),
    jax.eval_shape(problem.init, jax.random.key(0)),
  )


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_dataset_and_its_network(name, data_dir):
  dataset = datasets.load(name, data_dir)
  tasks = TASKS[name]
  assert dataset.name == name
  for field in (
    "task_names",
    "task_kinds",
    "num_outputs",
    "metrics",
    "higher_is_better",
    "kpis",
    "scale",
  ):
    assert len(getattr(dataset, field)) == tasks, field
  assert len(set(dataset.task_names)) == tasks
  assert dataset.num_tasks == tasks
  for split in (dataset.train, dataset.test):
    assert split["y"].shape[:2] == (len(split["x"]), tasks)
    assert all(isinstance(array, np.ndarray) for array in split.values())

  problem = trunk_and_heads.build(dataset)
  params = drawn(problem)

  @jax.jit
  def run(params, train, test):
    key = jax.random.key(1)
    batch = trunk_and_heads.sample_batch(key, train, 16)
    out = problem.loss_and_kpis(params, batch), problem.evaluate(params, test)
    return *out, problem.loss_fn(params, batch)

  (losses, kpis), result, alone = run(params, problem.train, problem.test)
  for values in (losses, kpis, *result.values()):
    assert values.shape == (tasks,)
    assert values.dtype == jnp.float32
    assert not values.weak_type
    assert np.all(np.isfinite(values))
  for values in (kpis, result["kpis"]):
    assert np.all((values >= 0) & (values <= 1))
  # The same sums in another order: some float32 roundings.
  np.testing.assert_allclose(alone, losses, rtol=1e-5)


def test_loading_is_repeatable_and_seeded(data_dir):
  for name in datasets.DATASETS:
    first = datasets.load(name, data_dir, seed=0)
    again = datasets.load(name, data_dir, seed=0)
    other = datasets.load(name, data_dir, seed=1)
    for key in ("x", "y"):
      np.testing.assert_array_equal(first.train[key], again.train[key])
      np.testing.assert_array_equal(first.test[key], again.test[key])
    differs = not np.array_equal(first.train["x"], other.train["x"])
    assert differs == (name not in FILES), name


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(ValueError, match="digits.*multimnist.*'mnist'"):
    datasets.load("mnist")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_says_what_where_and_how(name, tmp_path):
  with pytest.raises(ValueError) as error:
    datasets.load(name)
  text = str(error.value)
  assert f"{name}.npz" in text and "--data-dir" in text and "digits" in text
  with pytest.raises(FileNotFoundError) as error:
    datasets.load(name, tmp_path)
  text = str(error.value)
  assert f"{name}.npz" in text and str(tmp_path) in text and "digits" in text
  assert {"multimnist": "mnist", "census": "themis", "arm7": "pin"}[
    name
  ] in text


def test_digit_pairs_overlay_disjoint_base_images(digits):
  base = load_digits()
  images = (base.images / 16).astype(np.float32)
  rows, columns = 2, 2  # where only the left, or only the right, digit lies
  sources = []
  for split in (digits.train, digits.test):
    x, y = split["x"], split["y"]
    assert x.shape[1:] == (10, 10) and x.dtype == np.float32
    assert y.dtype == np.int32 and np.all(y[:, 0] != y[:, 1])
    assert set(np.unique(y[:, 0])) == set(np.unique(y[:, 1])) == set(range(10))
    used = set()
    # A hundred pairs tell a wrong overlay; all of them would cost seconds.
    for picture, (left, right) in zip(x[:100], y[:100], strict=True):
      lefts = np.flatnonzero(base.target == left)
      same = np.all(
        images[lefts][:, :rows] == picture[:rows, :8], axis=(1, 2)
      ) & np.all(images[lefts][:, :, :columns] == picture[:8, :columns], (1, 2))
      found = []
      for i in lefts[same]:
        for j in np.flatnonzero(base.target == right):
          canvas = np.zeros((10, 10), np.float32)
          canvas[:8, :8] = images[i]
          canvas[2:, 2:] = np.maximum(canvas[2:, 2:], images[j])
          if np.array_equal(canvas, picture):
            found.append((i, j))
      assert found
      if len(found) == 1:
        used.update(found[0])
    sources.append(used)
  assert min(map(len, sources)) > 50
  assert not sources[0] & sources[1]


def test_table_columns_keep_their_codes(data_dir):
  dataset = datasets.load("census", data_dir)
  with np.load(data_dir / "census.npz") as raw:
    np.testing.assert_array_equal(dataset.train["x"][:, 4:], raw["cat_train"])
    np.testing.assert_array_equal(dataset.train["x"][:, :4], raw["num_train"])
  # A code acts through its own row of the first layer's matrix only: numeric
  # columns 0..3, first category 4..6, second 7..11.
  module = trunk_and_heads.MLP((1,), dataset.cardinality)
  x = jnp.array([[0, 0, 0, 0, 2, 3]], jnp.float32)
  kernel = jnp.zeros((12, 1), jnp.float32).at[6, 0].set(3.0).at[10, 0].set(4.0)
  params = {"layer_0": {"kernel": kernel, "bias": jnp.zeros(1, jnp.float32)}}
  assert module.apply({"params": params}, x).tolist() == [[7.0]]


def test_arm_inputs_are_standardised_by_the_training_part(data_dir):
  dataset = datasets.load("arm7", data_dir)
  # 40 rows of float32: 1e-6 is a few roundings.
  np.testing.assert_allclose(dataset.train["x"].mean(0), 0, atol=1e-6)
  np.testing.assert_allclose(dataset.train["x"].std(0), 1, atol=1e-6)
  assert np.abs(dataset.test["x"].mean(0)).max() > 1e-3
  np.testing.assert_allclose(
    dataset.scale, dataset.train["y"].std(0), rtol=1e-6
  )


def test_uncertainty_toy_is_the_published_draw():
  rng = np.random.RandomState(0)
  x = rng.randn(100, 1)
  y1 = 2 * x + 8 + 10 * rng.randn(100, 1)
  y2 = 3 * x + 3 + rng.randn(100, 1)
  train = datasets.load("uncertainty_toy").train
  np.testing.assert_array_equal(train["x"], x.astype(np.float32))
  np.testing.assert_array_equal(
    train["y"], np.hstack([y1, y2]).astype(np.float32)
  )
  # The residuals of the two least-squares lines are what the method's sigmas
  # converge to; in float32 inputs, so to 1e-6.
  design = np.hstack([train["x"], np.ones((100, 1))]).astype(np.float64)
  y = train["y"].astype(np.float64)
  residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
  np.testing.assert_allclose(
    np.sqrt(np.mean(residual**2, axis=0)),
    [10.28188627728701, 0.9492408336586697],
    rtol=1e-6,
  )


def test_gradnorm_toy_scales_tasks_by_sigma():
  dataset = datasets.gradnorm_toy(sigmas=(1.0, 100.0, 1.0), num_train=64)
  y = dataset.train["y"]
  assert y.shape == (64, 3, 100)
  limit = np.abs(y).max(axis=(0, 2))
  assert np.all(limit <= [1, 100, 1]) and np.all(limit > [0.9, 90, 0.9])
  # The tasks share B: their signs agree far more often than by chance. With
  # standard deviations 10 and 3.5 the correlation is 10^2/(10^2 + 3.5^2), so
  # the share is 1 - acos(0.891)/pi = 0.85.
  agree = np.mean(np.sign(y[:, 0]) == np.sign(y[:, 1]))
  assert abs(agree - 0.85) < 0.05
  assert len(set(dataset.task_names)) == 3
  np.testing.assert_allclose(
    np.linalg.norm(dataset.train["x"], axis=1), 1, rtol=1e-6
  )


def test_roc_auc_is_sklearns_with_ties():
  rng = np.random.default_rng(0)
  outputs = rng.integers(20, size=(5, 300)).astype(np.float32)
  labels = (rng.uniform(size=(5, 300)) < 0.1).astype(np.int32)
  expected = [
    roc_auc_score(label, score)
    for label, score in zip(labels, outputs, strict=True)
  ]
  actual = jax.jit(jax.vmap(scores.roc_auc))(outputs, labels)
  # Sums of at most 300 shares in float32.
  np.testing.assert_allclose(actual, expected, rtol=300 * 2**-24)
  assert np.isnan(scores.roc_auc(jnp.ones(3), jnp.zeros(3, jnp.int32)))


def test_losses_metrics_and_kpis_of_mixed_tasks(digits):
  dataset = dataclasses.replace(
    digits,
    task_kinds=("classification", "regression"),
    num_outputs=(3, 1),
    metrics=("accuracy", "nmse"),
    kpis=("accuracy", "within"),
    scale=np.array([1.0, 2.0], np.float32),
  )
  logits = jnp.array([[2, 0, 0], [0, 1, 0]], jnp.float32)
  values = jnp.array([[1], [5]], jnp.float32)
  batch = {"y": jnp.array([[0.0, 1.4], [2.0, 4.0]], jnp.float32)}
  losses = scores.task_losses(dataset, (logits, values), batch)
  entropy = (np.log(np.exp(2) + 2) - 2 + np.log(np.e + 2)) / 2
  np.testing.assert_allclose(losses, [entropy, (0.16 + 1) / 2], rtol=1e-6)
  np.testing.assert_allclose(
    scores.task_metrics(dataset, (logits, values), batch),
    [0.5, 0.58 / 1.3**2],
    rtol=1e-6,
  )
  # Errors 0.4 and 1 against a quarter of 2.
  np.testing.assert_allclose(
    scores.task_kpis(dataset, (logits, values), batch), [0.5, 0.5]
  )


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_trunk_and_heads_split(network, digits):
  problem = trunk_and_heads.build(digits, network=network)
  params = drawn(problem)
  batch = trunk_and_heads.sample_batch(jax.random.key(1), problem.train, 8)

  @jax.jit
  def check(params, batch):
    z, pullback = jax.vjp(lambda p: problem.trunk(p, batch["x"]), params)
    losses, through = jax.vjp(
      lambda p, z: problem.heads(p, z, batch["y"]), params, z
    )
    ones = jnp.ones_like(losses)
    head_grads, z_grad = through(ones)
    (trunk_grads,) = pullback(z_grad)
    whole = jax.grad(lambda p: jnp.sum(problem.loss_fn(p, batch)))(params)
    return z, trunk_grads, head_grads, whole

  z, trunk_grads, head_grads, whole = check(params, batch)
  assert z.shape == (8, 64)
  mask = problem.shared_mask(params)
  assert jax.tree.structure(mask) == jax.tree.structure(params)
  for shared, from_trunk, from_heads, expected in zip(
    *map(jax.tree.leaves, (mask, trunk_grads, head_grads, whole)), strict=True
  ):
    assert isinstance(shared, bool)
    # The trunk reads the leaves under the mask only, the heads the others.
    assert not np.any(from_heads if shared else from_trunk)
    np.testing.assert_allclose(
      from_trunk if shared else from_heads, expected, rtol=1e-4, atol=1e-6
    )
  last = problem.last_shared_mask(params)
  assert sum(jax.tree.leaves(last)) == 2
  name = "layer_1" if network == "mlp" else "layer_2"
  assert all(jax.tree.leaves(last["trunk"][name]))


def test_last_layer_is_by_number_not_by_letter():
  params = {"trunk": {f"layer_{i}": 0.0 for i in range(11)}, "heads": {}}
  last = trunk_and_heads.last_shared_mask(params)["trunk"]
  assert [name for name, chosen in last.items() if chosen] == ["layer_10"]


def test_build_refuses_what_it_cannot_build(digits):
  with pytest.raises(ValueError, match="'mlp' or 'cnn'; got 'rnn'"):
    trunk_and_heads.build(digits, network="rnn")
  toy = datasets.load("uncertainty_toy")
  with pytest.raises(ValueError, match=r"images.*\(100, 1\)"):
    trunk_and_heads.build(toy, network="cnn")


@pytest.mark.parametrize("rows", [900, 1000])
def test_evaluation_in_blocks_is_the_same(rows, digits, monkeypatch):
  problem = trunk_and_heads.build(digits, widths=(16,))
  params = drawn(problem)
  data = jax.tree.map(lambda array: array[:rows], problem.test)
  whole = problem.evaluate(params, data)
  monkeypatch.setattr(trunk_and_heads, "_BLOCK", 300)
  blocks = jax.jit(lambda p: problem.evaluate(p, data))(params)
  for key, value in whole.items():
    # Means over at most 1000 rows, each from products of 100 terms.
    np.testing.assert_allclose(blocks[key], value, rtol=1e-5)


def test_equal_weights_learn_both_digits(digits):
  problem = trunk_and_heads.build(digits)
  tx = optax.adam(2e-3)

  def step(carry, key):
    params, state = carry
    batch = trunk_and_heads.sample_batch(key, problem.train, 128)
    grads = jax.grad(lambda p: jnp.sum(problem.loss_fn(p, batch)))(params)
    updates, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  @jax.vmap
  def train(key):
    start, steps = jax.random.split(key)
    params = problem.init(start)
    carry = (params, tx.init(params))
    (params, _), _ = jax.lax.scan(step, carry, jax.random.split(steps, 500))
    return problem.evaluate(params, problem.test)["metrics"]

  # optax.adam itself relies on the standard promotion.
  with jax.numpy_dtype_promotion("standard"):
    accuracy = train(jax.random.split(jax.random.key(0), 2))
  # .88 and .92 on the average; seeds differ by .01.
  assert np.all(accuracy > 0.83), accuracy
