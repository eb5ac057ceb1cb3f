"""What the sources do where XLA's CPU compiler cannot be trusted."""

import warnings
from importlib import metadata

import jax
import jax.numpy as jnp
import pytest

import optax_mtl
from optax_mtl.sources import miscompiled


@pytest.fixture
def untrusted(monkeypatch):
  monkeypatch.setattr(metadata, "version", lambda _: "0.10.2")
  monkeypatch.setattr(miscompiled, "_warned", False)
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")


def losses(params, x):
  return [jnp.sum(params * x), jnp.sum(params**2)]


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
  params, x = jnp.ones(2), jnp.ones((2, 2))
  if kind == "task batches, trunk":
    params = {"trunk": params, "head": params}
  if not kind.startswith("task batches"):
    x = x[0]

  def run(params, x):
    _, grads = SOURCES[kind](params, x)
    grads = optax_mtl.sources.as_task_gradients(grads, 2, params)
    keep = jnp.array([True, False])
    weights = jnp.array([1.0, 0.0])
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
  """A loop in the program for CPU, and none in others' where none was."""
  monkeypatch.setattr(miscompiled, "_warned", True)

  def loops(platform):
    lowered = trace(kind).lower(lowering_platforms=(platform,))
    return lowered.as_text().count("stablehlo.while")

  wary = {platform: loops(platform) for platform in ("cpu", "tpu")}
  monkeypatch.setattr(miscompiled, "batches_wrongly", lambda: False)
  trusting = {platform: loops(platform) for platform in ("cpu", "tpu")}
  assert wary["cpu"] > 0
  if kind != "implicit":  # which takes one task after another everywhere
    assert trusting == {"cpu": 0, "tpu": 0}
    assert wary["tpu"] == 0
