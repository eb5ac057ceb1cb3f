"""Weights from the inner products, or other numbers, of the task gradients."""

from optax_mtl.methods.gram.aligned_mtl import aligned_mtl as aligned_mtl
from optax_mtl.methods.gram.cagrad import cagrad as cagrad
from optax_mtl.methods.gram.conflict_free import conflict_free as conflict_free
from optax_mtl.methods.gram.conic_grad import conic_grad as conic_grad
from optax_mtl.methods.gram.db_pinn import db_pinn as db_pinn
from optax_mtl.methods.gram.dcgd import dcgd as dcgd
from optax_mtl.methods.gram.dual_proj import dual_proj as dual_proj
from optax_mtl.methods.gram.fairgrad import fairgrad as fairgrad
from optax_mtl.methods.gram.grad_ops import grad_ops as grad_ops
from optax_mtl.methods.gram.gradnorm import gradnorm as gradnorm
from optax_mtl.methods.gram.gradvac import gradvac as gradvac
from optax_mtl.methods.gram.imtl_g import imtl_g as imtl_g
from optax_mtl.methods.gram.krum import krum as krum
from optax_mtl.methods.gram.lr_annealing import lr_annealing as lr_annealing
from optax_mtl.methods.gram.mgda import mgda as mgda
from optax_mtl.methods.gram.modo import modo as modo
from optax_mtl.methods.gram.nash_mtl import nash_mtl as nash_mtl
from optax_mtl.methods.gram.norm_balance import (
  NORM_BALANCE_SETTINGS as NORM_BALANCE_SETTINGS,
)
from optax_mtl.methods.gram.norm_balance import norm_balance as norm_balance
from optax_mtl.methods.gram.pcd import pcd as pcd
from optax_mtl.methods.gram.pcgrad import pcgrad as pcgrad
from optax_mtl.methods.gram.sdmgrad import sdmgrad as sdmgrad
from optax_mtl.methods.gram.upgrad import upgrad as upgrad
