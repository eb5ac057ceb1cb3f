"""What methods are called elsewhere, for errors and for the docs."""

import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Alias(NamedTuple):
  """What to take for a name of another library.

  Attributes:
    call: How it is written here; it begins with the function's name.
    whose: Who calls it so.
  """

  call: str
  whose: str

  @property
  def name(self) -> str:
    """The name of the function that is called."""
    return self.call.partition("(")[0]


def _row(call: str, whose: str) -> tuple[Alias, ...]:
  return (Alias(call, whose),)


#: Name elsewhere -> what to take for it. A name that differs from one here by
#: capitals and underscores alone, such as `PCGrad` or `nashmtl`, has no row.
ALIASES: Mapping[str, tuple[Alias, ...]] = {
  "AdaTask": _row("per_task(optax.scale_by_adam(), T)", "AdaTask"),
  "AutomaticWeightedLoss": _row(
    "uncertainty_weighting(T, variant='liebel')", "AutomaticWeightedLoss"
  ),
  "Balancer": _row(
    "norm_balance(T, **NORM_BALANCE_SETTINGS['encodec'])", "EnCodec"
  ),
  "ConFIG": _row("conflict_free(T)", "ConFIG, TorchJD"),
  "Constant": _row("fixed_weighting(T, weights)", "TorchJD"),
  "EW": _row("equal_weighting(T)", "LibMTL"),
  "HomoscedasticUncertainty": _row("uncertainty_weighting(T)", "PhysicsNeMo"),
  "GradNorm": (
    Alias("gradnorm(T)", "GradNorm"),
    Alias("norm_balance(T, **NORM_BALANCE_SETTINGS['jaxpi'])", "jaxpi"),
  ),
  "IGBv1": _row("igb(T, steps_per_epoch=k)", "IGB4MTL"),
  "IMTL": _row("imtl_g(T)", "LibMTL, nash-mtl"),
  "LS": _row("equal_weighting(T)", "nash-mtl"),
  "LinearScalarization": _row("fixed_weighting(T, weights)", "nash-mtl"),
  "LinearWeighting": _row("fixed_weighting(T, weights)", "PINA"),
  "MetaBalance": _row(
    "norm_balance(T, **NORM_BALANCE_SETTINGS['metabalance'])", "MetaBalance"
  ),
  "Mean": _row("equal_weighting(T, reduction='mean')", "TorchJD"),
  "MultiAdam": _row(
    "per_task(optax.scale_by_adam(0.99, 0.99), T)", "MultiAdam"
  ),
  "NTKMTL": _row(
    "norm_balance(T, **NORM_BALANCE_SETTINGS['ntkmtl'])", "NTKMTL"
  ),
  "PseudoMomentumOperator": _row("m_config(T)", "ConFIG"),
  "SI": _row("scale_invariant(T)", "nash-mtl"),
  "Sum": _row("equal_weighting(T)", "TorchJD, PhysicsNeMo"),
  "UW": _row("uncertainty_weighting(T)", "LibMTL, nash-mtl"),
  "calculate_adaptive_weight": _row(
    "norm_balance(T, **NORM_BALANCE_SETTINGS['vqgan'])", "VQ-GAN"
  ),
  "dynamic_weight_averaging": _row("dwa(T, steps_per_epoch=k)", "nash-mtl"),
  "frank_wolfe": _row("mgda(T, solver='vanilla')", "MGDA's authors"),
  "inverse_dirichlet": _row(
    "lr_annealing(T, reference='max', statistic='std', decay=0.5)",
    "inverse-dirichlet-pinn",
  ),
  "loss_weights": _row("fixed_weighting(T, weights)", "DeepXDE, jinns"),
  "nash": _row("nash_mtl(T)", "nash-mtl"),
  "ntk": _row("ntk_weighting(T)", "jaxpi, PhysicsNeMo"),
  "prior_loss": _row("log_losses(equal_weighting(T))", "jinns"),
  "soft_adapt": (
    Alias("softadapt(T)", "SoftAdapt"),
    Alias("dwa(T, 1.0, steps_per_epoch=1)", "jinns"),
  ),
  "uncertainty": _row("uncertainty_weighting(T)", "many"),
}

#: How alike two names have to be for one to be offered for the other.
_ALIKE = 0.7


def _bare(name: str) -> str:
  """A name without what libraries spell differently."""
  return name.lower().replace("_", "").replace("-", "")


def explain(name: str, public: Iterable[str]) -> str:
  """What an error says where `optax_mtl` has no such name.

  Args:
    name: The name that was looked for.
    public: The names that there are; a dot in one says in which module.

  Returns:
    A message that names the nearest.
  """
  names = {
    _bare(p.rpartition(".")[2]): p for p in public if not p.startswith("_")
  }
  aliases = {_bare(alias): found for alias, found in ALIASES.items()}
  bare = _bare(name)
  missing = f"optax_mtl has no {name}. "
  if name.isidentifier() and importlib.util.find_spec(f"optax_mtl.{name}"):
    return (
      f"optax_mtl.{name} is a module that is not imported with the package: "
      f"from optax_mtl import {name}."
    )
  if bare in aliases:
    found = [f"that of {a.whose} is optax_mtl.{a.call}" for a in aliases[bare]]
    return f"{missing}Here {', '.join(found)}."
  if bare in names:
    return f"{missing}Here it is optax_mtl.{names[bare]}."
  near = difflib.get_close_matches(bare, [*names, *aliases], cutoff=_ALIKE)
  offers = [
    names[n] if n in names else " or ".join(a.call for a in aliases[n])
    for n in near
  ]
  if not offers:
    return (
      f"{missing}Its methods are the keys of optax_mtl.METHODS; how to write "
      "one of your own says docs/own_methods.md."
    )
  return f"{missing}Did you mean {' or '.join(dict.fromkeys(offers))}?"
