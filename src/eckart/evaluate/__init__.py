"""What a model is worth: measured, on text that it was not calibrated on."""

from __future__ import annotations

from eckart.evaluate.agreement import Agreement as Agreement
from eckart.evaluate.agreement import agreement as agreement
from eckart.evaluate.continuation import continuation as continuation
from eckart.evaluate.perplexity import Perplexity as Perplexity
from eckart.evaluate.perplexity import perplexity as perplexity
