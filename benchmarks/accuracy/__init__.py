"""How exact it is, against float64 solutions and TorchJD."""
