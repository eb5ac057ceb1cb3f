"""A run that is saved, restored and gone on with is the same, bit for bit.

The same compiled step runs on before and after. Once for each kind of rule:
that every method's state comes back as it was is tested with its other runs.
"""

import pickle

import harness
import jax
import numpy as np
import orbax.checkpoint
import pytest
from flax import serialization

# optax.adam mixes dtypes.
pytestmark = pytest.mark.standard_promotion


def with_msgpack(state, like, folder):
  path = folder / "state.msgpack"
  path.write_bytes(serialization.to_bytes(state))
  return serialization.from_bytes(like, path.read_bytes())


def with_pickle(state, like, folder):
  del like
  path = folder / "state.pickle"
  path.write_bytes(pickle.dumps(jax.device_get(state)))
  return pickle.loads(path.read_bytes())


def with_orbax(state, like, folder):
  with orbax.checkpoint.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder / "state", state)
    checkpointer.wait_until_finished()
    return checkpointer.restore(folder / "state", like)


SAVERS = {"msgpack": with_msgpack, "orbax": with_orbax, "pickle": with_pickle}


@pytest.mark.parametrize("name", harness.every_kind)
def test_restored_runs_are_bit_identical(name, tmp_path):
  """Saved in the middle of an epoch of `dwa`, before its third.

  And without another trace, at which the step would raise.
  """
  stepper = harness.stepper(name)
  data = harness.to_dtype(harness.data(), "float32")

  def steps(params, state, start, stop):
    for i in range(start, stop):
      params, state = stepper.step(params, state, harness.row_of(data, i))
    return params, state

  params = harness.params()
  params, state = steps(params, stepper.init(params), 0, 13)
  expected = steps(params, state, 13, 20)
  like = stepper.init(harness.params())
  for saver, save_and_restore in SAVERS.items():
    folder = tmp_path / saver
    folder.mkdir()
    restored = save_and_restore((params, state), (params, like), folder)
    assert jax.tree.structure(restored) == jax.tree.structure((params, state))
    for old, new in zip(
      jax.tree.leaves((params, state)), jax.tree.leaves(restored), strict=True
    ):
      assert old.dtype == new.dtype, saver
    resumed = steps(*restored, 13, 20)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
