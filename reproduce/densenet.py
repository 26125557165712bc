"""Log D against block and against layer of a densely connected network, at the best learning rate.

python -m equisep -m experiment=densenet && python reproduce/densenet.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("densenet")
