"""Log D against block and against layer of a residual network of three-layer blocks, at the best learning rate.

python -m equisep -m experiment=resnet_three_layer && python reproduce/resnet_three_layer.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("resnet_three_layer")
