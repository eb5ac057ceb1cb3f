"""Methods that need the loss function itself, as functions around a step."""

from optax_mtl.training._method import TrainingMethod as TrainingMethod
from optax_mtl.training.auto_lambda import AutoLambdaState as AutoLambdaState
from optax_mtl.training.auto_lambda import auto_lambda as auto_lambda
from optax_mtl.training.forum import ForumState as ForumState
from optax_mtl.training.forum import forum as forum
from optax_mtl.training.moml import MomlState as MomlState
from optax_mtl.training.moml import moml as moml
from optax_mtl.training.samo import SamoState as SamoState
from optax_mtl.training.samo import samo as samo
