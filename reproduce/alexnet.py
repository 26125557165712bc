"""Log D against layer of AlexNet on Fashion-MNIST and CIFAR-10, at the best learning rate.

python -m equisep -m experiment=alexnet && python reproduce/alexnet.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("alexnet")
