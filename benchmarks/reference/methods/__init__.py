"""Every method once more: plain loops over steps in NumPy float64.

A reference is a function `(num_tasks, grads, extra, **kwargs) -> weights`: what
the method is built with, `grads` [steps, T, P], `extra` a dict of [steps, T],
and the weights [steps, T] that it applies, or the updates [steps, P] of a
method without weights; all tasks take part. Each lies in a file of the method's
name; `REFERENCES` maps the name to it, and `tests/contract/test_registry.py`
says which is missing.

Written from the papers, not from the package: nothing of it is imported. Each
works on the gradients where it can, and small problems are solved by SciPy or
by trying all supports. Gradients are linearly independent, unless a function
says otherwise.

>>> import numpy as np
>>> grads = np.array([[[1.0, 0.0], [0.0, 2.0]]])  # one step, two tasks
>>> REFERENCES["mgda"](2, grads, {}).round(3).tolist()
[[0.8, 0.2]]
"""

import importlib
import pkgutil

from benchmarks.reference.methods._shared import REFERENCES

__all__ = ["REFERENCES"]

# Every file registers its reference: a new one needs no line here.
for _module in pkgutil.iter_modules(__path__):
  importlib.import_module(f"{__name__}.{_module.name}")
