"""How sure we are: intervals, paired tests, fits with calibrated forecasts."""
