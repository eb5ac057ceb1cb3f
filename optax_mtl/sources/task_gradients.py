import jax, copy
import jax.numpy as jnp
from optax_mtl import _checks
from optax_mtl import _task_gradients as _old
from optax_mtl._task_gradients import TaskGradients
TaskGradients.names=None; TaskGradients.shared=None; TaskGradients.heads="sum"
class StackedTaskGradients(_old.StackedTaskGradients):
  def gram(self, shared=None):
    m=self.shared
    if shared is not None: m=_checks.resolve_mask(shared,self.params_like,"shared")
    return super().gram(m)
  def combine(self, weights, *, shared=None, head_weights=None, keep=None):
    if head_weights is None:
      head_weights = weights if self.heads=="weighted" else (jnp.ones_like(weights) if keep is None else keep.astype(weights.dtype))
    return super().combine(weights, shared=self.shared if shared is None else shared, head_weights=head_weights, keep=keep)
  def cross_gram(self, other):
    return sum(jnp.einsum('sp,tp->st',a.reshape(self.num_tasks,-1),b.reshape(self.num_tasks,-1)) for a,b in zip(jax.tree.leaves(self.tree),jax.tree.leaves(other.stacked())))
  def with_heads(self, update, keep=None):
    if self.shared is None: return update
    ones=jnp.ones(self.num_tasks)
    plain=self.combine(ones if keep is None else keep*ones,keep=keep)
    return jax.tree.map(lambda s,a,b: a if s else b, self.shared, update, plain)
  def on_trunk(self, shared, heads="sum"):
    new=copy.copy(self); new.shared=_checks.resolve_mask(shared,self.params_like,"shared"); new.heads=heads; return new
def as_task_gradients(updates, num_tasks, params=None):
  if isinstance(updates, TaskGradients): return updates
  if num_tasks is None: num_tasks=jax.tree.leaves(updates)[0].shape[0]
  _checks.check_stacked(updates,num_tasks,params)
  return StackedTaskGradients(updates,num_tasks)
