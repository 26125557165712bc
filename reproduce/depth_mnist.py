"""The last layer's D against depth on MNIST 10×10, at the best learning rate of each depth.

python -m equisep -m experiment=depth_mnist && python reproduce/depth_mnist.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("depth_mnist")
