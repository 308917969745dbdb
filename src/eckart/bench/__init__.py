"""How fast models are, side by side, and what holds them back."""

from __future__ import annotations

from eckart.bench.compare import Speed as Speed
from eckart.bench.compare import compare as compare
from eckart.bench.roofline import Machine as Machine
from eckart.bench.roofline import Work as Work
from eckart.bench.roofline import measure_machine as measure_machine
