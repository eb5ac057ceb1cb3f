"""A problem on which methods tie, and one on which they do not: `make demo`.

Trains classifiers of two digits with many methods, then a physics-informed
network. Prints both tables; writes JSON, pictures and one HTML page.
"""

import sys
from collections.abc import Sequence

from benchmarks.common import options, output, page
from benchmarks.pinn import compare as pinn
from benchmarks.quality import compare as quality

#: Of the digits: one or two of each family, so that all is done in minutes.
#: Most of the time is compiling.
_METHODS = (
  "mgda,upgrad,conflict_free,nash_mtl,uncertainty_weighting,gradnorm,dwa"
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs both; returns the exit status."""
  parser = options.new_parser("demo", __doc__)
  add = parser.add_argument
  add("--methods", default=_METHODS, help="of the digits; comma-separated")
  add("--digits-steps", type=int, default=300, help="per network")
  add("--helmholtz-steps", type=int, default=2500, help="likewise")
  add("--seeds", type=int, default=3, help="networks a method")
  options.add_out(parser, "demo")
  args = parser.parse_args(argv)
  console = output.new_console(160)
  status, digits = quality.compare(
    quality.parse(
      [
        *("--methods", args.methods, "--steps", str(args.digits_steps)),
        *("--seeds", str(args.seeds), "--out", str(args.out / "digits")),
        *("--sweep", "5", "--fresh"),
      ]
    ),
    console,
  )
  if digits is None:
    return status
  equation = pinn.in_short(
    console, args.out / "helmholtz", args.helmholtz_steps, args.seeds
  )
  sections = [digits] if equation is None else [digits, equation]
  for section in sections:
    console.print(section.sentence)
  report = args.out / "report.html"
  versions = output.made_with()["versions"]
  report.write_text(page.render(sections, versions), encoding="utf-8")
  output.say_wrote([report])
  return status


if __name__ == "__main__":
  sys.exit(main())
