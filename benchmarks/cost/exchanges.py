"""What devices exchange in a compiled program, read off its text.

XLA writes each collective with the types of its results, and each loop with the
number of its turns where it knows it; so the bytes of a step can be added up
without running it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_EXCHANGE = re.compile(
  r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|"
  r"collective-permute|collective-broadcast)(?:-start)?\("
)
_TYPE = re.compile(r"([a-z]+)(\d+)?\[([\d,]*)\]")
_LOOP = re.compile(r" while\(.*body=%?([\w.\-]+)")
_TURNS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:to_apply|calls|\w+_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Exchange(NamedTuple):
  """One array that a collective returns.

  Attributes:
    kind: The collective's name in XLA.
    entries: The array's number of entries.
    num_bytes: Its size.
    times: How often it is exchanged.
  """

  kind: str
  entries: int
  num_bytes: int
  times: float


def _exchanges(line: str, times: float) -> list[Exchange]:
  """The arrays that a line's collective returns; none if it has none."""
  collective = _EXCHANGE.search(line)
  if not collective:
    return []
  kind = collective[2]
  found: list[Exchange] = []
  for _, bits, shape in _TYPE.findall(collective[1]):
    entries = math.prod(map(int, filter(None, shape.split(","))))
    # A bool, whose type has no number, is stored in a byte.
    size = int(bits or 8) // 8
    found.append(Exchange(kind, entries, entries * size, times))
  if kind == "all-to-all" and found:
    # A part from each device, which make one array.
    together = sum(x.entries for x in found), sum(x.num_bytes for x in found)
    return [Exchange(kind, *together, times)]
  return found


def _computations(text: str) -> tuple[Mapping[str, list[str]], str]:
  """The lines of each computation by its name, and the entry's name."""
  lines: dict[str, list[str]] = {}
  entry = name = ""
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      name = head[1]
      lines[name] = []
      entry = name if line.startswith("ENTRY") else entry
    elif name:
      lines[name].append(line)
  return lines, entry


def exchanges(text: str, turns: float = 1) -> list[Exchange]:
  """All collectives of a program.

  Args:
    text: `compiled.as_text()`.
    turns: How often a loop turns that does not say so, on average.

  Returns:
    A list; of branches, those of the one that exchanges most.
  """
  computations, entry = _computations(text)

  def within(name: str, times: float) -> Iterator[Exchange]:
    for line in computations.get(name, ()):
      here = _exchanges(line, times)
      if here:
        yield from here
        continue
      loop = _LOOP.search(line)
      if loop:
        known = _TURNS.search(line)
        number = int(known[1]) if known else turns
        yield from within(loop[1], times * number)
        continue
      branches = _BRANCHES.search(line)
      if branches:
        each = [
          list(within(branch.strip(" %"), times))
          for branch in branches[1].split(",")
        ]
        yield from max(each, key=total)
      for called in _CALLED.findall(line):
        yield from within(called, times)

  return list(within(entry, 1))


def total(found: Iterable[Exchange]) -> float:
  """The bytes of all of them, each as often as it is exchanged."""
  return sum(exchange.num_bytes * exchange.times for exchange in found)
