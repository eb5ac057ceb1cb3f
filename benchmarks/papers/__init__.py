"""The papers' own experiments, with the papers' numbers beside ours.

`python -m benchmarks.papers.uncertainty`, `.gradnorm` and `.pareto_mtl` each
print a table and write JSON and pictures; `--help` lists their options.
"""
