"""Log D against layer at width 20, 100 and 1,000, at the best learning rate.

python -m equisep -m experiment=width && python reproduce/width.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("width")
