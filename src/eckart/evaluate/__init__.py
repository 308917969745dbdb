"""What a model is worth: measured, on text that it was not calibrated on."""

from __future__ import annotations

from eckart.evaluate.agreement import Agreement as Agreement
from eckart.evaluate.agreement import agreement as agreement
from eckart.evaluate.continuation import continuation as continuation
from eckart.evaluate.harness import Tasks as Tasks
from eckart.evaluate.harness import load_tasks as load_tasks
from eckart.evaluate.perplexity import Perplexity as Perplexity
from eckart.evaluate.perplexity import perplexity as perplexity
from eckart.evaluate.tasks import Score as Score
from eckart.evaluate.tasks import ZeroShot as ZeroShot
from eckart.evaluate.tasks import zero_shot as zero_shot
