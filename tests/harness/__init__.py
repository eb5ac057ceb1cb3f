"""What the tests of all methods share: data, builders, compiled runs.

A method costs four compiled programs: fifteen runs over 50 steps in one `vmap`
(`cases`, `case_runs`), the float64 run beside the reference, one step on many
matrices (`contract/test_claims.py`), and T=1. Everything else about it is read
off these, or traced without compiling.
"""

from harness.expected import REFERENCES as REFERENCES
from harness.expected import assert_close as assert_close
from harness.expected import expected_weights as expected_weights
from harness.expected import limited as limited
from harness.figures import figures as figures
from harness.inputs import EXPONENTS as EXPONENTS
from harness.inputs import FAMILIES as FAMILIES
from harness.inputs import NUM_STEPS as NUM_STEPS
from harness.inputs import ORDER as ORDER
from harness.inputs import SHARED as SHARED
from harness.inputs import SHOWS as SHOWS
from harness.inputs import Data as Data
from harness.inputs import cases as cases
from harness.inputs import data as data
from harness.inputs import extra_args as extra_args
from harness.inputs import extra_of as extra_of
from harness.inputs import flat as flat
from harness.inputs import inactive as inactive
from harness.inputs import intermittent as intermittent
from harness.inputs import num_params as num_params
from harness.inputs import params as params
from harness.inputs import row_of as row_of
from harness.inputs import spoilt as spoilt
from harness.inputs import tasks_of as tasks_of
from harness.inputs import to_dtype as to_dtype
from harness.methods import KINDS as KINDS
from harness.methods import NAMES as NAMES
from harness.methods import NUM_TASKS as NUM_TASKS
from harness.methods import ORDERED as ORDERED
from harness.methods import OWN as OWN
from harness.methods import PACKAGE as PACKAGE
from harness.methods import TASKS as TASKS
from harness.methods import UPDATING as UPDATING
from harness.methods import WEIGHING as WEIGHING
from harness.methods import build as build
from harness.methods import claiming as claiming
from harness.methods import claims as claims
from harness.methods import every_kind as every_kind
from harness.methods import info as info
from harness.methods import registered as registered
from harness.methods import weighing_kinds as weighing_kinds
from harness.methods import weighs as weighs
from harness.runs import Run as Run
from harness.runs import Stepper as Stepper
from harness.runs import case_runs as case_runs
from harness.runs import run as run
from harness.runs import runner as runner
from harness.runs import stepper as stepper
from harness.runs import steps as steps
from harness.tracing import as_text as as_text
from harness.tracing import count as count
from harness.tracing import is_random as is_random
from harness.tracing import per_task_rows as per_task_rows
from harness.tracing import products as products
from harness.tracing import signature as signature
from harness.tracing import traced as traced
