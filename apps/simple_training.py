"""`simple_ml` under the name that the course gave its training loops in 2022."""

from __future__ import annotations

if __package__:  # imported as apps.simple_training
    from apps.simple_ml import *
    from apps.simple_ml import __all__ as __all__
else:
    from simple_ml import *
    from simple_ml import __all__ as __all__
