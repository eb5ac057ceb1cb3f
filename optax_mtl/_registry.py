"""What is known about each method besides how it computes."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, cast, get_args

import numpy as np

from optax_mtl import _checks
from optax_mtl._rule import Rule
from optax_mtl._transformation import Method, as_method

P = ParamSpec("P")

#: What a method may claim about itself. A contract test checks each claim.
CLAIMS: Mapping[str, str] = {
  "descends": "no task's loss rises to first order: G d >= 0",
  "simplex": "the weights are non-negative and sum to 1",
  "positive_weights": "the weights are non-negative",
  "scale_equivariant": "scaling all gradients by c scales the update by c",
  "permutation_equivariant": "renaming the tasks renames the weights",
}

_ROOMS = "optax_mtl.methods."


@dataclasses.dataclass(frozen=True)
class MethodInfo:
  """What is known about a method besides how it computes.

  What it needs, and whether it asks for the Gram matrix, is not declared:
  `optax_mtl.facts` finds it by tracing.

  Attributes:
    name: The name of the function that builds it.
    room: What its rule reads, by the folder that its file lives in: "losses",
      "gram", "gradients" or "preference"; "" for a method from elsewhere.
    paper: Authors, title and venue.
    url: Where to read the paper.
    weights_sum: What the weights sum to, in words.
    example: Function from a tuple of task numbers to keyword arguments with
      which the method can be built for those tasks.
    claims: Members of `CLAIMS` that hold.
  """

  name: str
  room: str
  paper: str
  url: str
  weights_sum: str
  example: Callable[[Sequence[int]], Mapping[str, Any]]
  claims: frozenset[str]


class MethodFunction(Protocol[P]):
  """The function that builds a method, with what is known about it."""

  info: MethodInfo
  __name__: str

  def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Method: ...


#: Name -> the function that builds the method; filled by `method`.
METHODS: dict[str, MethodFunction[...]] = {}


class _MethodSignature(inspect.Signature):
  """A signature that binds a list of numbers, one a task, as an array.

  `optax.inject_hyperparams` binds what it is given, and takes numbers and
  arrays for hyperparameters, but a list for a constant: what would be set in
  its state later would not be where the method gets it from.
  """

  def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """As in `inspect.Signature`."""
    bound = super().bind(*args, **kwargs)
    for name, value in bound.arguments.items():
      annotation = self.parameters[name].annotation
      per_task = set(get_args(_checks.TaskValues)) <= set(get_args(annotation))
      if per_task and isinstance(value, (list, tuple)):
        numbers = cast(Sequence[Any], value)
        if all(map(_checks.is_python_number, numbers)):
          bound.arguments[name] = np.asarray(numbers)
    return bound


def _nothing(tasks: Sequence[int]) -> Mapping[str, Any]:
  del tasks
  return {}


def method(
  *,
  paper: str,
  url: str,
  weights_sum: str,
  example: Callable[[Sequence[int]], Mapping[str, Any]] = _nothing,
  claims: Sequence[str] = (),
) -> Callable[[Callable[P, Rule]], MethodFunction[P]]:
  """Makes a method of a function that returns a rule, and registers it.

  The function's first argument is `num_tasks`, the others are its paper's own.
  What the decorator returns has the same name, arguments and docstring, and
  returns an `optax.GradientTransformationExtraArgs` in place of the rule. It
  stands in `optax_mtl.METHODS` from then on.

  Args:
    paper: Authors, title and venue.
    url: Where to read the paper.
    weights_sum: What the weights sum to, in words; "none" without weights.
    example: Function from a tuple of task numbers to keyword arguments with
      which the method can be built for those tasks. Default: none are needed.
    claims: Properties that hold, which the contract tests then check.

  Returns:
    The decorator.

  Raises:
    ValueError: A claim is unknown; the function's first argument is not called
      `num_tasks`; or another module's method has the name already.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> @optax_mtl.method(
    ...   paper="Nobody, Follow the Largest Loss", url="", weights_sum="1"
    ... )
    ... def largest_loss(num_tasks: int) -> optax_mtl.WeightRule:
    ...   return optax_mtl.from_step(
    ...     lambda step: (step.losses == step.losses.max()).astype(jnp.float32)
    ...   )
    >>> tx = largest_loss(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    >>> updates, state = tx.update(grads, state, losses=jnp.array([1.0, 9.0]))
    >>> print(updates, state.weights)
    [0. 3.] [0. 1.]
    >>> _ = optax_mtl.METHODS["largest_loss"]
  """
  unknown = set(claims) - set(CLAIMS)
  if unknown:
    raise ValueError(f"claims must be among {sorted(CLAIMS)}, got {unknown}.")

  def decorate(function: Callable[P, Rule]) -> MethodFunction[P]:
    name, module = function.__name__, function.__module__
    signature = inspect.signature(function)
    if next(iter(signature.parameters), None) != "num_tasks":
      raise ValueError(
        f"The first argument of the method {name} must be num_tasks, got "
        f"{signature}."
      )
    known = METHODS.get(name)
    if known is not None and inspect.getmodule(known) is not inspect.getmodule(
      function
    ):
      raise ValueError(
        f"There is a method {name} already, in {known.__module__}. Choose "
        "another name."
      )

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> Method:
      given = (*args, *(v for k, v in kwargs.items() if k == "num_tasks"))
      # Where there is none, the function's own error says what is missing.
      num_tasks = _checks.check_num_tasks(given[0]) if given else 0
      return as_method(name, num_tasks, function(*args, **kwargs))

    vars(build)["__signature__"] = _MethodSignature(
      list(signature.parameters.values()), return_annotation=Method
    )
    method_function = cast(MethodFunction[P], build)
    method_function.info = MethodInfo(
      name=name,
      room=module.split(".")[-2] if module.startswith(_ROOMS) else "",
      paper=paper,
      url=url,
      weights_sum=weights_sum,
      example=example,
      claims=frozenset(claims),
    )
    METHODS[name] = method_function
    return method_function

  return decorate
