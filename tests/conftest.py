"""Common to all tests: one thread per process, because pytest-xdist already uses every core, and no clock that judges.

A machine that does something else at the same time makes examples slow; that is not a fault of what is tested.
"""

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("kweek", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kweek")
