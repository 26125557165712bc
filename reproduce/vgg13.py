"""Log D against layer of VGG13 on Fashion-MNIST and CIFAR-10, at the best learning rate.

python -m equisep -m experiment=vgg13 && python reproduce/vgg13.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("vgg13")
