"""What more than one room uses: matrices, tables, clocks, TorchJD."""
