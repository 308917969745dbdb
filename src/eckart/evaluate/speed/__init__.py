"""How fast models are, side by side, and what holds them back."""

from __future__ import annotations

from eckart.evaluate.speed.compare import Speed as Speed
from eckart.evaluate.speed.compare import compare as compare
from eckart.evaluate.speed.roofline import Machine as Machine
from eckart.evaluate.speed.roofline import Work as Work
from eckart.evaluate.speed.roofline import measure_machine as measure_machine
