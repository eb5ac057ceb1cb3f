"""Convolutions written in the layout that is fast inside CPU loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

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


def layout_of(fun, *args):
  """The dimension numbers of all convolutions in the program."""
  found = []

  def walk(jaxpr):
    for eqn in jaxpr.eqns:
      if eqn.primitive is lax.conv_general_dilated_p:
        found.append((eqn.params["dimension_numbers"], eqn.invars[0].aval.ndim))
      for value in eqn.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
          walk(inner)

  walk(jax.make_jaxpr(fun)(*args).jaxpr)
  return found


def assert_canonical(fun, *args):
  found = layout_of(fun, *args)
  assert found
  for numbers, ndim in found:
    space = tuple(range(1, ndim - 1))
    channels_last = (0, ndim - 1, *space)
    assert numbers.lhs_spec == channels_last
    assert numbers.out_spec == channels_last
    assert numbers.rhs_spec == (ndim - 1, ndim - 2, *range(ndim - 2))


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
  for fun, arg in ((backward, cotangent), (forward, (x, kernel))):
    canonical = canonicalize(fun, arg)
    assert_canonical(canonical, arg)
    got, want = jax.jit(canonical)(arg), jax.jit(fun)(arg)
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
    canonical = canonicalize(lambda c, pb=pullback: pb(c)[0], {"out": x})
    assert_canonical(canonical, {"out": x})
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
