"""32 bits to fewer: group quantisation with error compensation, pruning, export."""
