"""Log D against layer and block of a residual network with two kinds of blocks: a law for each half.

python -m equisep -m experiment=resnet_mixed && python reproduce/resnet_mixed.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("resnet_mixed")
