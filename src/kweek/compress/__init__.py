"""32 bits to 4: group quantisation with error compensation."""
