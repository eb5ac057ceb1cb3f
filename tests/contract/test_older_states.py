"""The state of an older version loads, or is refused with words that help."""

import functools
import pathlib
import re
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from contract import older_states
from flax import serialization

import optax_mtl
from optax_mtl.solvers import Certificate

VERSIONS = sorted(older_states.FOLDER.glob("*.msgpack"))
CHANGELOG = pathlib.Path(__file__).parents[2] / "CHANGELOG.md"


@functools.cache
def kept(version):
  return serialization.msgpack_restore(version.read_bytes())


def restored(like, data):
  """The state, or None if it is refused for fields that the changelog names."""
  try:
    return serialization.from_state_dict(like, data)
  except (ValueError, KeyError) as error:
    fields = re.findall(r"'(\w+)'", str(error))
    changelog = CHANGELOG.read_text()
    assert any(f"`{field}`" in changelog for field in fields), (
      f"A kept state does not load any more: {error}. Say in CHANGELOG.md "
      "which field came or went, with which version, and what to give for it."
    )
    return None


def test_this_version_has_left_its_states():
  names = [path.stem for path in VERSIONS]
  assert optax_mtl.__version__ in names, (
    "Run `python -m contract.older_states` in tests/, and add what it writes."
  )


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", harness.NAMES)
def test_methods(version, name):
  """It loads, and its fields mean what they did: they hold the same numbers.

  But for what a solver says of its own answer, which is roundings and counts.
  """
  data = kept(version)["methods"]
  if name not in data:
    return  # The method is younger.
  now = older_states.state_of(name)
  if (old := restored(now, data[name])) is None:
    return
  assert jax.tree.structure(old) == jax.tree.structure(now)

  def without_certificates(state):
    return jax.tree.map(
      lambda x: () if isinstance(x, Certificate) else x,
      state,
      is_leaf=lambda x: isinstance(x, Certificate),
    )

  for a, b in zip(
    jax.tree.leaves(without_certificates(old)),
    jax.tree.leaves(without_certificates(now)),
    strict=True,
  ):
    assert a.dtype == b.dtype and a.shape == b.shape
    # Thirteen steps of float32, compiled by whoever compiles: some hundred
    # roundings, of the largest entry.
    size = np.max(np.abs(b), initial=0.0)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * size)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.stem)
def test_wrappers(version):
  for name, data in kept(version)["wrappers"].items():
    now = older_states.first_of(name)
    old = restored(now, data)
    if old is not None:
      assert jax.tree.structure(old) == jax.tree.structure(now), name


class OlderMemory(NamedTuple):
  """GradNorm's without the fields of today's, with one that went since."""

  momentum: Any


def older_gradnorm():
  """Today's state of GradNorm, and one as another version might have had it."""
  state = harness.build("gradnorm").init(harness.params())
  return state, state._replace(memory=OlderMemory(jnp.zeros(3)))


@pytest.mark.as_users
def test_a_memory_of_another_version_is_refused_by_the_names_of_its_fields():
  state, older = older_gradnorm()
  tx, params = harness.build("gradnorm"), harness.params()
  row = harness.row_of(harness.to_dtype(harness.data(), "float32"), 0)
  with pytest.raises(TypeError) as caught:
    tx.update(row.grads, older, params, **harness.extra_of(row))
  words = str(caught.value)
  assert f"optax_mtl {optax_mtl.__version__}" in words and "changelog" in words
  assert "and has momentum." in words
  for field in state.memory._fields:
    assert field in words.partition("lacks")[2]


@pytest.mark.as_users
def test_a_memory_with_something_for_each_leaf_is_refused_in_few_words():
  one, other = (
    {f"{name}{i:03d}": jnp.zeros(2) for i in range(200)}
    for name in ("one", "other")
  )
  tx = optax_mtl.bloop(2)
  stacked = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape)), one)
  with pytest.raises(TypeError, match="one011 and 188 more, and has") as caught:
    tx.update(stacked, tx.init(other), one)
  assert len(str(caught.value)) < 1000


@pytest.mark.as_users
@pytest.mark.parametrize(
  "name,field",
  [
    ("accumulate", "update_step"),
    ("skip_nonfinite", "skipped_total"),
  ],
)
def test_a_wrapper_names_what_is_missing(name, field):
  """What orbax returns where it is not told a state to restore into."""
  tx = older_states.WRAPPED[name](harness.build("mgda"))
  raw = tx.init(harness.params())._asdict()
  del raw[field]
  row = harness.row_of(harness.to_dtype(harness.data(), "float32"), 0)
  with pytest.raises(
    TypeError, match=rf"{name} needs its state.*lacks {field}"
  ):
    tx.update(row.grads, raw, harness.params())


def test_an_update_rule_is_given_another_state():
  tx, params = harness.build("bloop"), harness.params()
  row = harness.row_of(harness.to_dtype(harness.data(), "float32"), 0)
  other = harness.build("gradnorm").init(params)
  with pytest.raises(TypeError, match="bloop was given the state of another"):
    tx.update(row.grads, other, params, **harness.extra_of(row))


def test_restoring_an_older_file_names_the_field(tmp_path):
  """Of what reads files, flax and orbax say so themselves."""
  state, older = older_gradnorm()
  with pytest.raises(ValueError, match="momentum"):
    serialization.from_bytes(state, serialization.to_bytes(older))
  with orbax.checkpoint.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "older", older)
    checkpointer.wait_until_finished()
    with pytest.raises(ValueError, match="momentum"):
      checkpointer.restore(tmp_path / "older", state)
