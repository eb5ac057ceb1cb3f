"""What devices exchange in a step is what the formulas say, and no more."""

import re

import alone

from benchmarks.cost import many_devices
from benchmarks.cost.exchanges import Exchange, exchanges, total

_HLO = """
HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%body (arg: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %ar = f32[2,3]{1,0} all-reduce(%x), channel_id=1, to_apply=%add
  ROOT %out = (s32[], f32[2,3]{1,0}) tuple(%i, %ar)
}

%none () -> f32[] {
  ROOT %zero = f32[] constant(0)
}

%some (x: bf16[4]) -> bf16[8] {
  ROOT %ag = bf16[8]{0} all-gather(%x), dimensions={0}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w.1 = (s32[], f32[2,3]{1,0}) while(%t), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %w.2 = (s32[], f32[2,3]{1,0}) while(%t), condition=%c, body=%body
  %if = bf16[8]{0} conditional(%i, %a, %b), branch_computations={%none, %some}
  %a2a = (f32[1,2]{1,0}, f32[1,2]{1,0}) all-to-all(%y, %z), dimensions={1}
  %two = (pred[], f32[3,3]{1,0}) all-reduce(%y, %z), to_apply=%add
}
"""


def test_what_a_program_exchanges():
  """Loops with and without a number of turns, branches, several arrays."""
  found = exchanges(_HLO, turns=1.5)
  assert sorted(found) == [
    Exchange("all-gather", 8, 16, 1),
    Exchange("all-reduce", 1, 1, 1),
    Exchange("all-reduce", 6, 24, 1.5),
    Exchange("all-reduce", 6, 24, 5),
    Exchange("all-reduce", 9, 36, 1),
    Exchange("all-to-all", 4, 16, 1),
  ]
  assert total(found) == 16 + 1 + 6.5 * 24 + 36 + 16


def test_steps_exchange_what_the_formulas_say():
  """Else the command ends with an error; "new" is [T, T] at most."""
  printed = alone.printed_by("-m", "benchmarks.cost.many_devices")
  for way in many_devices.SIZES:
    rows = re.findall(rf"(?m)^ *{way} .* (\d+) *$", printed)
    assert len(rows) == len(many_devices.CASES)
    # The Gram matrix of arrays in parts is summed over the devices.
    assert max(map(int, rows)) == many_devices.T**2
