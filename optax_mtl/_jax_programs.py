"""Programs as data: jaxprs, which JAX does not promise to keep.

As in `_jax_internals`, where a name is gone or has changed its meaning, what
stands here falls back on a form that is right and merely slower.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl import _jax_internals

# Calls whose body is looked into: plain ones, and those that rematerialize.
# Custom derivative rules are not: a new body would not be the rule's.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")


class Program(NamedTuple):
  """A function of one pytree, traced.

  Attributes:
    fun: The function.
    closed: Its jaxpr.
    structure: The structure of what it returns.
  """

  fun: Callable[[Any], Any]
  closed: Any
  structure: Any


def trace(fun: Callable[[Any], Any], example: Any) -> Program:
  """Traces a function of one pytree.

  Args:
    fun: The function.
    example: A pytree of arrays or `ShapeDtypeStruct`, the argument's shapes.

  Returns:
    The program.
  """
  # What varies in `shard_map` has to be there: its shape alone is not taken.
  example = jax.tree.map(_jax_internals.zeros_if_varying, example)
  closed, out_shape = jax.make_jaxpr(fun, return_shape=True)(example)
  return Program(fun, closed, jax.tree.structure(out_shape))


def replace_convolutions(
  program: Program,
  replacement: Callable[[jax.Array, jax.Array, dict[str, Any]], jax.Array],
) -> Callable[[Any], Any]:
  """The function of a program, with its convolutions replaced.

  The equations of convolutions in it and in the calls that it makes are
  exchanged; all others stay what they were.

  Args:
    program: The program.
    replacement: Function from a convolution's operands and parameters to its
      result.

  Returns:
    The new function; the program's own where it has no convolution, or where
    JAX does not let a program be rewritten.
  """
  try:
    from jax.extend.core import jaxpr_as_fun

    rewritten = _replace_in_closed(program.closed, replacement)
    if rewritten is program.closed:
      return program.fun
    run = jaxpr_as_fun(rewritten)
  except (ImportError, AttributeError, TypeError):
    return program.fun

  def new(arg: Any) -> Any:
    out = run(*jax.tree.leaves(arg))
    return jax.tree.unflatten(program.structure, out)

  return new


def depends(program: Program) -> list[bool]:
  """Which leaves that a program returns depend on its argument.

  Calls are taken for dependent in all that they return; all leaves are where it
  cannot be told.
  """
  try:
    jaxpr = program.closed.jaxpr
    found = set(map(id, jaxpr.invars))
    for eqn in jaxpr.eqns:
      if any(id(v) in found for v in eqn.invars):
        found.update(map(id, eqn.outvars))
    return [id(v) in found for v in jaxpr.outvars]
  except (AttributeError, TypeError):
    return [True] * program.structure.num_leaves


def computes_in(program: Program, dtype: Any) -> bool:
  """Whether a dtype occurs in a program; True if that cannot be told."""
  try:
    return _computes_in(program.closed.jaxpr, jnp.dtype(dtype))
  except (AttributeError, TypeError):
    return True


def _computes_in(jaxpr: Any, dtype: Any) -> bool:
  for eqn in jaxpr.eqns:
    for var in (*eqn.invars, *eqn.outvars):
      if getattr(var.aval, "dtype", None) == dtype:
        return True
    for param in eqn.params.values():
      for inner in param if isinstance(param, (list, tuple)) else (param,):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns") and _computes_in(inner, dtype):
          return True
  return False


def _replace_in_closed(closed: Any, replacement: Callable[..., Any]) -> Any:
  """A closed jaxpr with convolutions replaced; the same object if none is."""
  jaxpr = _replace_in(closed.jaxpr, replacement)
  return closed if jaxpr is closed.jaxpr else closed.replace(jaxpr=jaxpr)


def _replace_in(jaxpr: Any, replacement: Callable[..., Any]) -> Any:
  eqns = [_replace_eqn(eqn, replacement) for eqn in jaxpr.eqns]
  if all(new is old for new, old in zip(eqns, jaxpr.eqns, strict=True)):
    return jaxpr
  return jaxpr.replace(eqns=eqns)


def _replace_eqn(eqn: Any, replacement: Callable[..., Any]) -> Any:
  if eqn.primitive.name == "conv_general_dilated":
    # A call with the same operands and results takes the equation's place.
    call = jax.jit(lambda lhs, rhs: replacement(lhs, rhs, eqn.params))
    (new,) = jax.make_jaxpr(call)(*[var.aval for var in eqn.invars]).eqns
    return eqn.replace(
      primitive=new.primitive, params=new.params, effects=new.effects
    )
  if eqn.primitive.name not in _CALLS:
    return eqn
  name = "jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"
  body = eqn.params[name]
  replace = _replace_in_closed if hasattr(body, "consts") else _replace_in
  new = replace(body, replacement)
  if new is body:
    return eqn
  return eqn.replace(params=eqn.params | {name: new})


# --- A vector, entry by entry -------------------------------------------------


def entries(program: Program) -> list[Callable[[Any], jax.Array]] | None:
  """What a program puts together to a vector, each entry by itself.

  Args:
    program: Of a function that returns an array [T].

  Returns:
    T functions of the program's argument that return an array [1] each, which
    compute no more than that entry needs where JAX drops what is not used; None
    where the vector is computed as one, or where JAX does not let a program be
    taken apart.
  """
  try:
    functions = _entries_of(program.closed, 0)
  except (ImportError, AttributeError, TypeError):
    return None
  if functions is None:
    return None

  def of_argument(function: Callable[..., jax.Array]) -> Callable[[Any], Any]:
    return lambda arg: function(*jax.tree.leaves(arg))

  return [of_argument(function) for function in functions]


def _entries_of(
  closed: Any, number: int
) -> list[Callable[..., jax.Array]] | None:
  """The entries of a closed jaxpr's output as functions of its inputs."""
  from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

  jaxpr, consts = closed.jaxpr, closed.consts

  def run(atoms: Sequence[Any]) -> Callable[..., list[jax.Array]]:
    part = jaxpr.replace(outvars=list(atoms))
    return jaxpr_as_fun(ClosedJaxpr(part, consts))

  def single(atom: Any) -> Callable[..., jax.Array]:
    return lambda *args: run([atom])(*args)[0].reshape(1)

  def of_atom(atom: Any) -> list[Callable[..., jax.Array]] | None:
    if atom.aval.shape == (1,):
      return [single(atom)]
    if isinstance(atom, Literal):
      return None
    made = [eqn for eqn in jaxpr.eqns if atom in eqn.outvars]
    if not made:
      return None
    (eqn,) = made
    name, params = eqn.primitive.name, eqn.params
    if name == "stack":  # which earlier versions write as a concatenation
      return [single(v) for v in eqn.invars]
    if name == "concatenate":
      parts = [of_atom(v) for v in eqn.invars]
      return None if None in parts else sum(filter(None, parts), [])
    if name == "convert_element_type":
      return _after(of_atom(eqn.invars[0]), params["new_dtype"])
    if name not in ("jit", "pjit"):
      return None
    inner = _entries_of(params["jaxpr"], eqn.outvars.index(atom))
    return inner and [_behind(run(eqn.invars), entry) for entry in inner]

  return of_atom(jaxpr.outvars[number])


def _after(
  functions: list[Callable[..., jax.Array]] | None, dtype: Any
) -> list[Callable[..., jax.Array]] | None:
  """The same functions, with results in another dtype."""

  def converted(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    return lambda *args: function(*args).astype(dtype)

  return functions and [converted(function) for function in functions]


def _behind(
  first: Callable[..., Sequence[Any]], then: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
  """One function after another."""
  return lambda *args: then(*first(*args))


# --- A backward pass, task by task --------------------------------------------

# Labels of what depends on the cotangents: one task's number, or
_ALL = -1  # the vector of cotangents itself, each entry its own task's
_MIXED = -2  # several tasks at once, weighed by then


def separate(
  program: Program, in_trunk: Sequence[bool]
) -> Callable[[jax.Array, jax.Array], list[jax.Array]] | None:
  """Two weighted sums in one backward pass, if no head serves two tasks.

  What one task's cotangent reaches alone is computed for a cotangent of 1 (0
  for a task whose weights are both 0), and is multiplied by a weight where it
  ends or where tasks come together: by the task's weight for heads at a head's
  leaf, and by the one for the trunk everywhere else.

  Args:
    program: Of a linear function from cotangents [T] to a list of leaves.
    in_trunk: Which of the leaves are the trunk's.

  Returns:
    A function from the weights [T] of the trunk and those of the heads to the
    leaves; None where a head's leaf depends on several tasks' cotangents at
    once, or where JAX does not let a program be taken apart.
  """
  try:
    return _separate(program, in_trunk)
  except (ImportError, AttributeError, TypeError, AssertionError):
    return None


def _separate(program: Program, in_trunk: Sequence[bool]) -> Any:
  from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

  jaxpr, consts = program.closed.jaxpr, program.closed.consts
  labels: dict[Any, int] = {jaxpr.invars[0]: _ALL}
  cuts: dict[Any, int] = {}
  constant, before, after = [], [], []
  for eqn in jaxpr.eqns:
    inputs = [v for v in eqn.invars if not isinstance(v, Literal)]
    inputs = [v for v in inputs if v in labels]
    found = {labels[v] for v in inputs}
    entries = _entries(eqn) if found == {_ALL} else None
    if not found:
      constant.append(eqn)
    elif entries is not None:
      before.append(eqn)
      labels |= zip(eqn.outvars, entries, strict=True)
    elif len(found) == 1 and min(found) >= 0:
      before.append(eqn)
      labels |= dict.fromkeys(eqn.outvars, found.pop())
    else:
      after.append(eqn)
      labels |= dict.fromkeys(eqn.outvars, _MIXED)
      cuts |= {v: labels[v] for v in inputs if labels[v] != _MIXED}
  ends = [
    None if isinstance(v, Literal) else labels.get(v) for v in jaxpr.outvars
  ]
  mixed = [end == _MIXED for end in ends]
  if any(
    end in (_MIXED, _ALL) and not trunk
    for end, trunk in zip(ends, in_trunk, strict=True)
  ):
    return None

  def run(eqns: Any, invars: Any, outvars: Any) -> Callable[..., Any]:
    part = jaxpr.replace(eqns=eqns, invars=list(invars), outvars=list(outvars))
    return jaxpr_as_fun(ClosedJaxpr(part, consts))

  alone = [v for v, m in zip(jaxpr.outvars, mixed, strict=True) if not m]
  joint = [v for v, m in zip(jaxpr.outvars, mixed, strict=True) if m]
  run_before = run(constant + before, jaxpr.invars, [*alone, *cuts])
  run_after = run(constant + after, cuts, joint)

  def weigh(value: jax.Array, label: int | None, weights: jax.Array) -> Any:
    if label is None:
      return value  # a constant: 0
    weight = weights if label == _ALL else weights[label]
    if jnp.finfo(value.dtype).bits < jnp.finfo(weight.dtype).bits:
      return (value.astype(weight.dtype) * weight).astype(value.dtype)
    return value * weight.astype(value.real.dtype)

  def leaves(weights: jax.Array, head_weights: jax.Array) -> list[jax.Array]:
    # A task without weights may overflow for a cotangent of 1: 0 times inf.
    wanted = (weights != 0) | (head_weights != 0)
    values = run_before(wanted.astype(jaxpr.invars[0].aval.dtype))
    ended = iter(values[: len(alone)])
    cut = [
      weigh(value, label, weights)
      for value, label in zip(values[len(alone) :], cuts.values(), strict=True)
    ]
    joined = iter(run_after(*cut))
    return [
      next(joined)
      if is_mixed
      else weigh(next(ended), end, weights if trunk else head_weights)
      for is_mixed, end, trunk in zip(mixed, ends, in_trunk, strict=True)
    ]

  return leaves


def _entries(eqn: Any) -> list[int] | None:
  """The tasks whose entries of the cotangents an equation takes out."""
  name, params = eqn.primitive.name, eqn.params
  if name == "unstack" or (name == "split" and set(params["sizes"]) == {1}):
    return list(range(len(eqn.outvars)))
  if name == "slice" and eqn.outvars[0].aval.shape == (1,):
    return [params["start_indices"][0]]
  return None
