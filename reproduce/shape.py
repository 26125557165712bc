"""Log D against layer where layers are narrow then wide, wide then narrow, mixed, at the best learning rate.

python -m equisep -m experiment=shape && python reproduce/shape.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("shape")
