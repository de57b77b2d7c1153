"""What work costs: FLOP conventions, this machine's limits, the ledger, energy and money."""
