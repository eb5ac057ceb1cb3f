"""What survives: solvers on 100,000 matrices each, runs of 100,000 steps."""
