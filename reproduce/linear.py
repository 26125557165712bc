"""Log D against layer of a linear network, depth 20, at the best rate and the published one: a negative result.

python -m equisep -m experiment=linear && python reproduce/linear.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("linear")
