"""Log D against layer of VGG13 on Fashion-MNIST and CIFAR-10, at the best learning rate.

python -m equisep -m experiment=vgg13 && python reproduce/vgg13.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("vgg13")
