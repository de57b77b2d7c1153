"""Common to all tests: one thread per process, because pytest-xdist already uses every core."""

import torch

torch.set_num_threads(1)
