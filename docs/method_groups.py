"""What a reader wants to know of a method and its registration does not say.

`generate.py` makes the tables of the README and of the method pages from it. A
test sees to it that every method of the package stands in one group, and that
no other name does.
"""

from typing import NamedTuple


class Group(NamedTuple):
  """Methods that answer one question.

  Attributes:
    title: The question, as a heading.
    text: What the methods have in common.
    first: Those to try first, at most five, in this order; `choosing.md` has
      the evidence.
    others: The others.
  """

  title: str
  text: str
  first: tuple[str, ...]
  others: tuple[str, ...]

  @property
  def methods(self) -> tuple[str, ...]:
    """All of them."""
    return self.first + self.others


GROUPS: tuple[Group, ...] = (
  Group(
    "To compare with",
    "What any other method has to beat.",
    ("equal_weighting", "fixed_weighting", "rlw"),
    (),
  ),
  Group(
    "Losses or gradients differ in scale",
    "One task drowns the others because of its unit, or of its steepness. "
    "These even out losses or lengths, and say nothing of directions.",
    (
      "norm_balance",
      "lr_annealing",
      "uncertainty_weighting",
      "db_mtl",
      "scale_invariant",
    ),
    (
      "db_pinn",
      "gls",
      "imtl_l",
      "ldc_mtl",
      "ntk_weighting",
      "uw_so",
    ),
  ),
  Group(
    "Gradients conflict",
    "A step for one task hurts another. These look at the angles: some let no "
    "loss rise to first order, others bargain.",
    ("nash_mtl", "upgrad", "mgda", "imtl_g", "conflict_free"),
    (
      "aligned_mtl",
      "cagrad",
      "conic_grad",
      "dcgd",
      "dual_proj",
      "fairgrad",
      "graddrop",
      "grad_ops",
      "gradvac",
      "m_config",
      "pcgrad",
    ),
  ),
  Group(
    "Some tasks fall too slowly",
    "What counts is how far each loss has come, and not how large it is.",
    ("relobralo", "gradnorm", "dwa", "famo", "softadapt"),
    ("dtp", "excess_mtl", "go4align", "igb"),
  ),
  Group(
    "One main loss, the others are helpers",
    "The main task is to be as well off as alone, or better. `norm_balance` "
    "with `reference=` and `lr_annealing` measure by one task too.",
    ("bloop", "pcd"),
    (),
  ),
  Group(
    "Gradients are noisy, or some are broken",
    "Small batches bias a solver's weights, and one bad gradient spoils a "
    "mean. `ema_weights` around any method averages its weights.",
    ("median", "moco", "sdmgrad", "modo", "trimmed_mean"),
    ("krum",),
  ),
  Group(
    "A trade-off is wanted",
    "You say which point of the Pareto front; `vmap` over preferences trains "
    "all of them. A sweep over `fixed_weighting` finds convex fronts.",
    ("pareto_mtl", "stch"),
    (),
  ),
)

#: Room -> its heading, and what its methods have in common. In this order.
ROOMS: dict[str, tuple[str, str]] = {
  "losses": (
    "From the losses",
    "The weights come from the losses, from other numbers of the tasks, or "
    "from nothing at all. Nothing asks for the task gradients one by one, so "
    "with the implicit source a step costs one backward pass, whatever the "
    "number of tasks.",
  ),
  "gram": (
    "From the Gram matrix",
    "The weights come from the inner products of the task gradients, their "
    "lengths or other numbers of each: with every source, that is one backward "
    "pass a task, and with the representation source one through the heads "
    "alone.",
  ),
  "gradients": (
    "From the gradients themselves",
    "The update is made from the gradients' entries, and there are no weights. "
    "A method that needs all gradients at once has them stacked, whatever the "
    "source.",
  ),
  "preference": (
    "With a preference",
    "The update takes a preference, and finds a solution that fits it on the "
    "Pareto front. `vmap` over preferences trains a whole front at once.",
  ),
}

#: Method -> projects that ship it, as far as we know them.
USERS: dict[str, str] = {
  "aligned_mtl": "LibMTL, TorchJD",
  "cagrad": "LibMTL, TorchJD",
  "conflict_free": "TorchJD",
  "db_mtl": "LibMTL",
  "dual_proj": "TorchJD",
  "dwa": "LibMTL",
  "equal_weighting": "all",
  "excess_mtl": "LibMTL",
  "fairgrad": "LibMTL, TorchJD",
  "famo": "LibMTL",
  "fixed_weighting": "all",
  "gls": "LibMTL",
  "graddrop": "LibMTL, TorchJD",
  "gradnorm": "LibMTL, PhysicsNeMo",
  "gradvac": "LibMTL, TorchJD",
  "imtl_g": "LibMTL, TorchJD",
  "imtl_l": "LibMTL",
  "krum": "TorchJD",
  "lr_annealing": "jinns, PhysicsNeMo",
  "mgda": "LibMTL, TorchJD",
  "moco": "LibMTL",
  "modo": "LibMTL",
  "nash_mtl": "LibMTL, TorchJD",
  "norm_balance": "jaxpi, EnCodec, VQ-GAN",
  "ntk_weighting": "jaxpi, PhysicsNeMo",
  "pcgrad": "LibMTL, TorchJD, metaworld-algorithms",
  "relobralo": "jinns, PhysicsNeMo",
  "rlw": "LibMTL, TorchJD",
  "sdmgrad": "LibMTL",
  "softadapt": "jinns, PhysicsNeMo",
  "stch": "LibMTL",
  "trimmed_mean": "TorchJD",
  "uncertainty_weighting": "LibMTL, PhysicsNeMo",
  "upgrad": "LibMTL, TorchJD",
}

#: Method -> where the authors' code, or a library that many results come from,
#: does something else than the paper and than this package.
DEVIATIONS: dict[str, str] = {
  "aligned_mtl": (
    "The authors' code sums the aligned gradients, `p = 1` for each task; "
    "here `p = 1/T`. `preference=[1.0] * T` is theirs, T times as long."
  ),
  "bloop": (
    "The authors add 1e-7 to the squared norm that they divide by, which "
    "switches the projection off once gradients are small."
  ),
  "cagrad": (
    "The authors then multiply the trunk's gradient by T: their update is "
    "T times ours, at the same learning rate."
  ),
  "conic_grad": (
    "The paper learns the weights, by one gradient step on them a step of "
    "training; here the problem is solved."
  ),
  "db_mtl": (
    "The authors add 1e-8 to losses and norms, and step the heads with "
    "the log-losses' gradients: `log_losses(db_mtl(T, "
    "logarithms=False))`."
  ),
  "db_pinn": (
    'In the authors\' code the ratios of the statistic "mean" are to the '
    "weighted gradients, those of the others to the plain ones: "
    "`relative=None`."
  ),
  "dcgd": (
    "The authors add 1e-8 to the norms. Losses beyond two are summed in "
    "two groups, as here."
  ),
  "dtp": (
    "The paper weighs the examples within a task too, by a focal loss. "
    "That is a matter of the loss function, and left out here."
  ),
  "dual_proj": (
    "It is GEM's projection with the margin (`memory_strength`) at 0, and "
    "without the ridge that GEM's code adds to the Gram matrix."
  ),
  "excess_mtl": (
    "The authors' weights sum to T, and multiply the heads' gradients "
    "too; they add 1e-7 to the sum of squares, which is large beside "
    "small gradients."
  ),
  "fairgrad": (
    "The authors multiply the update by T before they limit its norm."
  ),
  "famo": (
    "The authors limit the norm of the update to 1: `max_norm=1.0`. Their "
    "stand-alone code has `decay=0.01`."
  ),
  "go4align": (
    "The authors' k-means starts from random centres; here it is exact."
  ),
  "graddrop": (
    "The authors' code (lingvo) multiplies the result by its own norm "
    "divided by that of the plain sum. With a source at the params it is "
    "TorchJD's, without the signs of activations."
  ),
  "igb": (
    "Version 1 alone; the second learns by reinforcement. The authors' "
    "code takes the number of the base epoch from the command line, ours "
    "is the second."
  ),
  "imtl_l": "The scales have an optimizer of their own, and bounds.",
  "krum": (
    "TorchJD sums distances in the place of their squares, and picks "
    "other rows now and then; its `Krum` averages the chosen rows, as "
    "here."
  ),
  "ldc_mtl": (
    "In the authors' code the weights come from a layer of the network "
    "and descend the whole objective, under which all of them shrink; "
    "here they descend the differences alone. Their first term is divided "
    "by the sum of the weights: `divide=True`. On QM9 they take "
    '`normalize="log"`, with first losses taken anew in each epoch.'
  ),
  "lr_annealing": (
    "The authors' code takes the mean of the means of the weight "
    "matrices, without biases; here each entry of all leaves counts the "
    "same. Seven public codes have six formulas: `statistic=`, "
    "`relative=` and `decay=` are what differs."
  ),
  "mgda": (
    "With `normalize=` the authors apply the weights of the normalised "
    'problem to the raw gradients; with "l2" and two tasks that is equal '
    "weighting. Here the solution of the normalised problem is applied."
  ),
  "moco": (
    "The authors' code brings each gradient to the length of its loss "
    'first: `normalize="loss"`; its projection is a softmax, which keeps '
    "the weights near uniform."
  ),
  "modo": (
    "The paper takes a third batch for the update, the authors' code the "
    "sum of both batches' gradients; here those of the first are "
    "combined."
  ),
  "nash_mtl": (
    "The authors limit the trunk's update by `max_norm`, and weigh the "
    'heads with the weights before that limit: `heads="weighted"`.'
  ),
  "norm_balance": (
    "jaxpi adds 1e-5 of the mean to each norm, or nothing, and then "
    "divides by zero; on several devices it averages the weights instead "
    "of the gradients. EnCodec averages the norms of the items of a "
    "batch: ours is its `per_batch_item=False`. VQ-GAN adds 1e-4 to a "
    "norm, DB-MTL 1e-8. MetaBalance's loop ends at the first tensor "
    "without a gradient."
  ),
  "ntk_weighting": (
    "jaxpi divides the mean of the traces, each a mean over the samples, "
    'and averages the weights: `reference="mean"`, `reduction="mean"`, '
    "`ema_weights`."
  ),
  "pareto_mtl": (
    "The authors' first phase comes once. Here a point that an optimizer "
    "carries out of its sub-region goes through it again, and the state's "
    "`violation` shows where the losses are."
  ),
  "pcd": (
    "The authors add 1e-8 to the averages of the squared norms; nothing "
    "is added here. The rest of their algorithm is ours: the length of "
    "the primary gradient, and the primary alone where the constraints "
    "cannot be met."
  ),
  "relobralo": (
    "Codes that go by the name leave out the factor T, or the last weights."
  ),
  "rlw": (
    "In the authors' code, LibMTL, Bernoulli numbers are the weights "
    "themselves, which sum to up to T, and Dirichlet's go through a "
    "softmax too; IGB4MTL multiplies the weights by T. Here all laws sum "
    "to 1."
  ),
  "sdmgrad": (
    "Paper and code take a third batch for the update; here the first "
    "one's gradients are combined. The code adds 1e-4 under the roots "
    "that the products are divided by, and its rate of 10 makes the "
    "weights jump from task to task."
  ),
  "softadapt": (
    "The authors' weights sum to 1, here to T. Their package takes the "
    "slope at the oldest of the points, and divides by a signed sum in "
    "the normalized variant."
  ),
  "stch": 'LibMTL\'s STCH is `variant="log"`.',
  "trimmed_mean": (
    "The paper trims a share of the workers, TorchJD a number, as here."
  ),
  "uncertainty_weighting": (
    "LibMTL starts `log σ²` at -0.5: `initial_log_vars=-0.5`. Here it "
    "starts at 0."
  ),
}
