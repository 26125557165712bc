"""Log D against layer on 32×32 images at width 1,000, depth 4, 8, 20, at the best learning rate.

python -m equisep -m experiment=original_size && python reproduce/original_size.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("original_size")
