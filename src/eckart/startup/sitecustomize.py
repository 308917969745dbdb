"""What Python runs at its start in the processes of ``eckart run``, since this folder comes first in their path.

A module of this name that it would have run without us is run too.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

import eckart_on_demand

HERE = os.path.dirname(os.path.abspath(__file__))

eckart_on_demand.install()
_others = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path) != HERE])
if _others is not None and _others.loader is not None:
    _others.loader.exec_module(module_from_spec(_others))
