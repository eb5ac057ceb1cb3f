"""Calls of LAPACK in one program wait for each other, or may do so for ever.

jaxlib shares the work of a batched call among the threads of a pool, and waits
for it in one of them. Two such calls that nothing orders run side by side, and
on a machine with two cores neither gets a thread: so hung, once in some hundred
calls, `vmap(aligned_weights)`.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import pytest

from optax_mtl import solvers

SOLVERS = {
  "aligned_weights": solvers.aligned_weights,
  "equal_projections": solvers.equal_projections,
}


def unordered(text):
  """Pairs of LAPACK calls in one computation, neither of which needs the other.

  Args:
    text: A compiled program, as HLO.
  """
  found, number = [], 0
  for computation in re.split(r"\n\n", text):
    needs, calls = {}, []
    for line in computation.splitlines():
      made = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*)", line)
      if made is None:
        continue
      names = re.findall(r"%([\w.-]+)", made[2])
      direct = [name for name in names if name in needs]
      needs[made[1]] = set(direct).union(*(needs[name] for name in direct))
      if 'custom_call_target="lapack_' in line:
        calls.append(made[1])
    number += len(calls)
    found += [
      pair
      for pair in itertools.combinations(calls, 2)
      if pair[0] not in needs[pair[1]] and pair[1] not in needs[pair[0]]
    ]
  assert number, "No call was found: has the text another form?"
  return found


@pytest.mark.parametrize("name", SOLVERS)
def test_a_program_has_no_two_side_by_side(name):
  grams = jax.ShapeDtypeStruct((4, 20, 20), jnp.float32)
  program = jax.jit(jax.vmap(lambda gram: SOLVERS[name](gram)))
  assert not unordered(program.lower(grams).compile().as_text())


def test_two_side_by_side_are_found():
  grams = jax.ShapeDtypeStruct((4, 20, 20), jnp.float32)

  @jax.jit
  def program(grams):
    return jnp.linalg.eigvalsh(grams), jnp.linalg.cholesky(grams)

  assert unordered(program.lower(grams).compile().as_text())
