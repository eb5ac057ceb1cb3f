"""Convolutions written in the layout that is fast inside CPU loops."""

import functools
import re

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import optax_mtl
from optax_mtl.sources import as_task_gradients
from optax_mtl.sources.convolutions import canonicalize

LAYOUTS = {
  1: ("NWC", "WIO", "NWC"),
  2: ("NHWC", "HWIO", "NHWC"),
  3: ("NDHWC", "DHWIO", "NDHWC"),
}
FIRST = {1: ("NCW", "OIW", "NCW"), 2: ("NCHW", "OIHW", "NCHW")}


def draw(seed, shape):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def layouts_on(platform, fun, arg):
  """The dimension numbers of all convolutions in the lowered program."""
  lowered = jax.jit(fun).trace(arg).lower(lowering_platforms=(platform,))
  return re.findall(
    r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", lowered.as_text()
  )


def assert_canonical(fun, arg, original):
  """On CPU all convolutions are; elsewhere they are what they were."""
  found = layouts_on("cpu", fun, arg)
  assert found
  for layout in found:
    last = r"\[b, [\d, ]+, f\]"
    assert re.fullmatch(rf"{last}x\[[\d, ]+, i, o\]->{last}", layout), layout
  for platform in ("tpu", "cuda"):
    assert sorted(layouts_on(platform, fun, arg)) == sorted(
      layouts_on(platform, original, arg)
    )


CONVS = [
  # Axes, layout, stride, padding, dilation, groups.
  (1, LAYOUTS, 1, "SAME", 1, 1),
  (2, LAYOUTS, 1, "SAME", 1, 1),
  (2, LAYOUTS, 2, "VALID", 1, 1),
  (2, LAYOUTS, 1, "SAME", 2, 1),
  (2, LAYOUTS, 1, "SAME", 1, 2),
  (2, FIRST, 2, "SAME", 1, 1),
  (1, FIRST, 1, "VALID", 1, 1),
  (3, LAYOUTS, 1, "VALID", 1, 1),
]


@pytest.mark.parametrize(
  "axes, layouts, stride, padding, dilation, groups", CONVS
)
def test_a_backward_pass_keeps_its_values(
  axes, layouts, stride, padding, dilation, groups
):
  numbers = layouts[axes]
  sizes = {"N": 2, "C": 4, "I": 4 // groups, "O": 6}
  sides = dict(zip("DHW"[-axes:], (6, 7, 5)[:axes], strict=True))
  x = draw(0, [(sizes | sides)[c] for c in numbers[0]])
  kernel = draw(1, [(sizes | dict.fromkeys("DHW", 3))[c] for c in numbers[1]])

  def forward(pair):
    x, kernel = pair
    return lax.conv_general_dilated(
      x,
      kernel,
      (stride,) * axes,
      padding,
      rhs_dilation=(dilation,) * axes,
      dimension_numbers=numbers,
      feature_group_count=groups,
    )

  out, pullback = jax.vjp(forward, (x, kernel))
  backward = lambda cotangent: pullback(cotangent)[0]  # noqa: E731
  cotangent = draw(2, out.shape)
  for fun, arg, want in (
    (backward, cotangent, backward(cotangent)),
    (forward, (x, kernel), out),
  ):
    canonical = canonicalize(fun, arg)
    assert_canonical(canonical, arg, fun)
    got = jax.jit(canonical)(arg)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      # Sums of at most 2·7·6·6 products, in another order.
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_inside_jit_remat_and_under_transformations():
  """Calls are inlined; vmap, grad and lax.map go through."""
  kernel = draw(1, (3, 3, 2, 2))

  def conv(x):
    return lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUTS[2]
    )

  x = draw(0, (1, 5, 5, 2))
  for wrap in (jax.jit, jax.checkpoint):
    fun = lambda x, wrap=wrap: {"out": jnp.tanh(wrap(conv)(x))}  # noqa: E731
    _, pullback = jax.vjp(fun, x)
    backward = lambda c, pullback=pullback: pullback(c)[0]  # noqa: E731
    canonical = canonicalize(backward, {"out": x})
    assert_canonical(canonical, {"out": x}, backward)
    want = pullback({"out": x})[0]
    np.testing.assert_allclose(
      canonical({"out": x}), want, rtol=1e-4, atol=1e-5
    )
    rows = jnp.stack([x, 2 * x])
    looped = lax.map(lambda r: canonical({"out": r}), rows)  # noqa: B023
    batched = jax.vmap(lambda r: canonical({"out": r}))(rows)  # noqa: B023
    np.testing.assert_allclose(looped, batched, rtol=1e-4, atol=1e-5)


def test_without_convolution_the_function_is_returned():
  fun = lambda x: jnp.sum(x**2)  # noqa: E731
  assert canonicalize(fun, jnp.ones(3)) is fun


def test_convolutions_in_loops_stay():
  """Inside the function's own loops nothing is touched, and nothing breaks."""
  kernel = draw(1, (3, 2, 2))

  def fun(x):
    def body(x, _):
      return lax.conv_general_dilated(
        x, kernel, (1,), "SAME", dimension_numbers=LAYOUTS[1]
      ), None

    return lax.scan(body, x, length=2)[0]

  x = draw(0, (1, 5, 2))
  np.testing.assert_allclose(canonicalize(fun, x)(x), fun(x))


@jax.custom_vjp
def bent(x):
  return jnp.tanh(x)


bent.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (jax.nn.relu(2 + x) * g,))

POLICIES = {
  "nothing": None,
  "everything": jax.checkpoint_policies.everything_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "no batch": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
  "names": jax.checkpoint_policies.save_only_these_names("a"),
}


def deep(name, policy=None):
  """A convolution, an activation with a rule of its own, a convolution."""
  activation = {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "bent": bent}[name]

  def conv(x, kernel):
    return lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUTS[2]
    )

  @functools.partial(jax.checkpoint, policy=POLICIES.get(policy))
  def net(x, kernel):
    return conv(activation(conv(x, kernel)), kernel)

  def losses(kernel, x):
    y = net(x, kernel)
    return jnp.stack([jnp.sum(jnp.square(y)), jnp.sum(y[..., 0])])

  return losses


def gradients_of(losses, source):
  """The Gram matrix's rows, by each way that rewrites a program."""
  if source == "representation":

    def run(kernel, x):
      _, grads = optax_mtl.value_and_representation_grads(
        lambda kernel: kernel, lambda _, kernel: losses(kernel, x), chunk_size=1
      )(kernel)
      return grads.gram(), grads.stacked()
  elif source == "task batches":

    def run(kernel, x):
      _, grads = optax_mtl.value_and_task_batch_grads(
        lambda kernel, select, x: select @ losses(kernel, x),
        in_axes=(0, None),
        chunk_size=1,
      )(kernel, jnp.eye(2), x)
      return as_task_gradients(grads, 2).gram(), grads
  else:

    def run(kernel, x):
      _, grads = optax_mtl.value_and_task_grads(
        losses, source=source, chunk_size=1
      )(kernel, x)
      grads = as_task_gradients(grads, 2)
      return grads.gram(), grads.stacked()

  return run


RULES = [
  *[
    ("relu", source, None)
    for source in ("stacked", "implicit", "representation", "task batches")
  ],
  ("relu6", "implicit", None),
  ("bent", "implicit", None),
  ("bent", "stacked", None),
  *[("relu", "implicit", policy) for policy in POLICIES],
]


@functools.cache
def jacobian_of(name):
  """Whatever is kept for the backward pass, the derivative is one."""
  return jax.jit(jax.jacrev(deep(name)))(KERNEL, IMAGES)


KERNEL, IMAGES = draw(0, (3, 3, 2, 2)), draw(1, (1, 4, 4, 2))


@pytest.mark.parametrize("name, source, policy", RULES)
def test_rules_of_derivation_inside_what_is_rewritten(name, source, policy):
  """`KeyError: 'subfuns'`, before."""
  losses = deep(name, policy)
  gram, rows = jax.jit(gradients_of(losses, source))(KERNEL, IMAGES)
  want = jacobian_of(name)
  # Sums of a few hundred products, in another order.
  np.testing.assert_allclose(rows, want, rtol=1e-4, atol=1e-3)
  flat = np.asarray(want, np.float64).reshape(2, -1)
  np.testing.assert_allclose(gram, flat @ flat.T, rtol=1e-4)


def test_rules_of_derivation_in_a_large_network():
  """From 2**18 params on the stacked source takes one task after another."""
  losses = deep("relu")
  kernel = jax.ShapeDtypeStruct((3, 3, 171, 171), jnp.float32)
  x = jax.ShapeDtypeStruct((1, 4, 4, 171), jnp.float32)
  _, grads = jax.eval_shape(optax_mtl.value_and_task_grads(losses), kernel, x)
  assert grads.shape == (2, *kernel.shape)


@pytest.mark.standard_promotion
def test_rematerialized_modules():
  """Those of flax and equinox."""
  module = flax.linen.remat(Small)()
  x = draw(1, (1, 4, 4, 2))
  variables = jax.eval_shape(module.init, jax.random.key(0), x)

  def sequential(key):
    conv = functools.partial(eqx.nn.Conv2d, 2, 2, 3, padding=1, key=key)
    return eqx.nn.Sequential([conv(), eqx.nn.Lambda(jax.nn.relu), conv()])

  net = eqx.filter_checkpoint(
    eqx.filter_eval_shape(sequential, jax.random.key(0))
  )
  arrays, static = eqx.partition(
    net, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
  )
  image = draw(2, (2, 4, 4))
  for params, apply in (
    (variables, lambda p: module.apply(p, x)),
    (arrays, lambda p: eqx.combine(p, static)(image)),
  ):

    def run(params, apply=apply):
      losses = lambda p: [jnp.sum(apply(p) ** 2), jnp.sum(apply(p))]  # noqa: E731
      _, implicit = optax_mtl.value_and_task_grads(losses, source="implicit")(
        params
      )
      _, stacked = optax_mtl.value_and_task_grads(losses, chunk_size=1)(params)
      return implicit.gram(), implicit.stacked(), stacked

    # The error came up while tracing; values are compared above.
    gram, *rows = jax.eval_shape(run, params)
    assert gram.shape == (2, 2)
    shapes = jax.tree.map(lambda leaf: (2, *leaf.shape), params)
    for tree in rows:
      assert jax.tree.map(lambda leaf: leaf.shape, tree) == shapes


class Small(flax.linen.Module):
  @flax.linen.compact
  def __call__(self, x):
    x = flax.linen.relu(flax.linen.Conv(2, (3, 3))(x))
    return flax.linen.Conv(2, (3, 3))(x)


@pytest.mark.parametrize("source", ["implicit", "representation"])
def test_a_gram_matrix_has_no_other(source):
  """Nor have the forward-mode passes, which transpose the backward pass."""

  def conv(x, kernel):
    return lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUTS[2]
    )

  def trunk(params, x):
    return jnp.tanh(conv(x, params["trunk"]))

  def heads(params, z, x):
    del x
    return [jnp.mean(conv(z, kernel) ** 2) for kernel in params["heads"]]

  if source == "implicit":
    losses = lambda params, x: heads(params, trunk(params, x), x)  # noqa: E731
    grads_of = optax_mtl.value_and_task_grads(losses, source=source)
  else:
    grads_of = optax_mtl.value_and_representation_grads(
      trunk, heads, chunk_size=1
    )
  params = {
    "trunk": draw(0, (3, 3, 2, 4)),
    "heads": [draw(1, (3, 3, 4, 5)), draw(2, (3, 3, 4, 3))],
  }
  x = draw(3, (2, 6, 6, 2))
  tx = optax_mtl.mgda(2)

  def update(params):
    _, grads = grads_of(params, x)
    return tx.update(grads, tx.init(params), params)[0]

  last = r"\[b, [\d, ]+, f\]"
  for layout in layouts_on("cpu", update, params):
    assert re.fullmatch(rf"{last}x\[[\d, ]+, i, o\]->{last}", layout), layout
