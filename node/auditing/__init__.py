"""Whether answers of other nodes hold: some are checked at another holder of the same model."""
