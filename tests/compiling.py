"""How users' programs are compiled, where `make test` compiles with less.

Most of the suite's time is the compiler's. What tests look at, values and
shapes, is the same without its last optimizations, but for roundings. Where a
test is about what the compiler makes, its memory or its mistakes, it asks for
all of them.
"""

import functools
import os

import jax

#: What the Makefile takes away, put back. A jaxlib that does not know these
#: options gets none of them from the Makefile either.
AS_USERS = (
  {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
  if "--xla_cpu_use_fusion_emitters=false" in os.environ.get("XLA_FLAGS", "")
  else {}
)
jit_as_users = functools.partial(jax.jit, compiler_options=AS_USERS)
