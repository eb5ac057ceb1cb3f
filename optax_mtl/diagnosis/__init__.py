"""What a user's own model says about which method it wants.

* `forms`: the loss function, in any of the sources' forms.
* `gradients`: norms, noise and conflicts over several batches.
* `costs`: what a step costs with each source, of the compiled program.
* `advice`: what follows from both.
* `findings`: what is found, as a dict and as text.
"""

from optax_mtl.diagnosis.advice import Advice as Advice
from optax_mtl.diagnosis.costs import Cost as Cost
from optax_mtl.diagnosis.diagnose import diagnose as diagnose
from optax_mtl.diagnosis.findings import Diagnosis as Diagnosis
from optax_mtl.diagnosis.gradients import Leaf as Leaf
