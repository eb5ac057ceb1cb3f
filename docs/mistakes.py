"""The page on mistakes, from the table that the tests run.

    python docs/mistakes.py

`tests/contract/test_slips.py` fails where the words of an error are not those
on the page.
"""

import pathlib
import sys
import textwrap

DOCS = pathlib.Path(__file__).parent
PAGE = DOCS / "mistakes.md"

# Of this checkout, whatever is installed.
sys.path[:0] = [str(DOCS.parent / "tests"), str(DOCS.parent)]

from contract import slips  # noqa: E402

_HEAD = """\
# Mistakes, and what you are told

Everything here was once accepted in silence, or refused in words that did not
help. The tests run each piece of code, and this page has the words that came
(`make generate` writes it). What can be seen while tracing is an error; what is
known only when the numbers are there has a behaviour that is finite, or shows.
Where a mistake stays accepted, because the code that it is made in is not this
package's, the page says what happens. Which parts go together is on the page
[Composition](composition.md).

All pieces begin with

```python
{prelude}```

Gradients of an implicit source are no tree of arrays. What takes them for one
without asking them says so in words of its own: `jit`, `scan` and `cond` that
return them ("not a valid JAX type"), `optax.masked` and `optax.partition`
("pytree structure error"), `nnx.Optimizer` ("tuple index out of range"). Call
the method's update in the same jitted function, put the method before `masked`
and `partition`, and call `tx.update` yourself
[in NNX](integrations.md#flax-nnx); or take the stacked source.

To find the operation that makes the first NaN,
`jax.config.update("jax_debug_nans", True)` works through all methods: none
computes a NaN on its way to a finite update. Figures of
[`diagnostics`](diagnostics.md) that nothing defines are NaN, and raise then.
"""


def _row(slip: slips.Slip, words: str | None) -> str:
  code = f"### {slip.title}\n\n```python\n{slip.code}\n```\n\n"
  if slip.error is None:
    return f"{code}Accepted. {textwrap.fill(slip.why, 86)}\n"
  kind = "a warning: " if issubclass(slip.error, Warning) else ""
  told = textwrap.fill(
    f"{kind}{words}", 86, break_long_words=False, break_on_hyphens=False
  )
  return f"{code}```text\n{told}\n```\n"


def page() -> str:
  """The whole page; each piece of code runs for it."""
  text = [_HEAD.format(prelude=slips.PRELUDE)]
  for group, rows in slips.GROUPS.items():
    text += [f"\n## {group}\n"]
    text += [f"\n{_row(slip, slips.said(slip))}" for slip in rows]
  return "".join(text)


if __name__ == "__main__":
  PAGE.write_text(page(), encoding="utf-8")
