"""What the sources do where XLA's CPU compiler cannot be trusted."""

import warnings
from importlib import metadata

import jax
import jax.numpy as jnp
import pytest

import optax_mtl
from optax_mtl.sources import miscompiled

#: Chunks of two of them are two and a rest.
T = 5


@pytest.fixture
def untrusted(monkeypatch):
  monkeypatch.setattr(metadata, "version", lambda _: "0.10.2")
  monkeypatch.setattr(miscompiled, "_warned", False)
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")


def losses(params, x):
  """A vector that is computed as one: losses by themselves are not batched."""
  powers = params[None] ** jnp.arange(1.0, T + 1)[:, None]
  return jnp.sum(powers * x[None], axis=1)


def one(params, x):
  return jnp.sum(params * x)


SOURCES = {
  "stacked": optax_mtl.value_and_task_grads(losses),
  "chunks": optax_mtl.value_and_task_grads(losses, chunk_size=2),
  "implicit": optax_mtl.value_and_task_grads(losses, source="implicit"),
  "implicit in chunks": optax_mtl.value_and_task_grads(
    losses, source="implicit", chunk_size=2
  ),
  "representation": optax_mtl.value_and_representation_grads(
    lambda params, _: params, lambda _, z, x: losses(z, x), chunk_size=2
  ),
  "trunk": optax_mtl.value_and_task_grads(losses, shared=True),
  "task batches": optax_mtl.value_and_task_batch_grads(one),
  "task batches in chunks": optax_mtl.value_and_task_batch_grads(
    one, chunk_size=2
  ),
  "task batches, trunk": optax_mtl.value_and_task_batch_grads(
    lambda params, x: one(params["trunk"], x) + jnp.sum(params["head"]),
    shared={"trunk": True, "head": False},
  ),
}


def trace(kind):
  params, x = jnp.ones(2), jnp.ones((T, 2))
  if kind == "task batches, trunk":
    params = {"trunk": params, "head": params}
  if not kind.startswith("task batches"):
    x = x[0]

  def run(params, x):
    _, grads = SOURCES[kind](params, x)
    grads = optax_mtl.sources.as_task_gradients(grads, T, params)
    keep = jnp.arange(T) > 0
    weights = jnp.arange(float(T))
    return (
      grads.gram(),
      grads.combine(weights, keep=keep),
      grads.finite(),
      grads.stacked(),
    )

  return jax.jit(run).trace(params, x)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_warns_once_and_names_the_remedy(untrusted, kind):
  with pytest.warns(UserWarning, match="0.10.2 .* XLA_FLAGS=--xla_cpu_exp"):
    trace(kind)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    trace(kind)


@pytest.mark.parametrize("what", ["version", "flag", "platform"])
def test_nothing_is_said_where_the_compiler_is_right(
  untrusted, what, monkeypatch
):
  if what == "version":
    monkeypatch.setattr(metadata, "version", lambda _: "0.11.0")
  elif what == "flag":
    monkeypatch.setenv(
      "XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=-reduce"
    )
  else:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  trace("stacked")


@pytest.mark.parametrize("kind", SOURCES)
def test_tasks_are_taken_one_after_another_on_cpu_alone(
  untrusted, kind, monkeypatch
):
  """A loop in the program for CPU of what is batched elsewhere."""
  monkeypatch.setattr(miscompiled, "_warned", True)

  def loops_over_tasks(platform):
    text = trace(kind).lower(lowering_platforms=(platform,)).as_text()
    # The bound of a loop; chunks of two make loops of two trips.
    bound = f"dense<{T}> : tensor<i32>"
    return "stablehlo.while" in text and bound in text

  wary = {platform: loops_over_tasks(platform) for platform in ("cpu", "tpu")}
  monkeypatch.setattr(miscompiled, "batches_wrongly", lambda: False)
  trusting = {
    platform: loops_over_tasks(platform) for platform in ("cpu", "tpu")
  }
  assert wary["cpu"]
  if kind != "implicit":  # which takes one task after another everywhere
    assert not (wary["tpu"] or trusting["cpu"] or trusting["tpu"])
