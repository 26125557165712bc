"""Log D against layer at seven learning rates of SGD, depth 9.

python -m equisep -m experiment=learning_rate && python reproduce/learning_rate.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("learning_rate")
