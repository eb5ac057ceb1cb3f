"""How hypothesis draws where an example is dear: few, the same in each run.

Without shrinking: an example is a batch through a compiled program, or many
operations one by one.
"""

import hypothesis

#: `hypothesis.settings(few, max_examples=...)` draws another number.
few = hypothesis.settings(
  max_examples=4,
  phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)
