"""What is said once around a method, or around a chain that begins with one."""

from optax_mtl.wrappers.accumulate import AccumulateState as AccumulateState
from optax_mtl.wrappers.accumulate import accumulate as accumulate
from optax_mtl.wrappers.drop_nonfinite import drop_nonfinite as drop_nonfinite
from optax_mtl.wrappers.ema_weights import EmaWeightsMemory as EmaWeightsMemory
from optax_mtl.wrappers.ema_weights import ema_weights as ema_weights
from optax_mtl.wrappers.from_extra_arg import from_extra_arg as from_extra_arg
from optax_mtl.wrappers.log_losses import log_losses as log_losses
from optax_mtl.wrappers.normalize_gradients import (
  normalize_gradients as normalize_gradients,
)
from optax_mtl.wrappers.on_tasks import on_tasks as on_tasks
from optax_mtl.wrappers.on_trunk import on_trunk as on_trunk
from optax_mtl.wrappers.per_task import per_task as per_task
from optax_mtl.wrappers.refresh_every import (
  RefreshEveryMemory as RefreshEveryMemory,
)
from optax_mtl.wrappers.refresh_every import refresh_every as refresh_every
from optax_mtl.wrappers.rename_args import rename_args as rename_args
from optax_mtl.wrappers.skip_nonfinite import (
  SkipNonfiniteState as SkipNonfiniteState,
)
from optax_mtl.wrappers.skip_nonfinite import skip_nonfinite as skip_nonfinite
from optax_mtl.wrappers.track import TrackMemory as TrackMemory
from optax_mtl.wrappers.track import track as track
from optax_mtl.wrappers.weighted_then import (
  WeightedThenMemory as WeightedThenMemory,
)
from optax_mtl.wrappers.weighted_then import weighted_then as weighted_then
