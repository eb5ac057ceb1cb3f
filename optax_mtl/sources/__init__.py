from optax_mtl._sources import *
from optax_mtl._task_gradients import TaskGradients
