"""Log D against layer of AlexNet on Fashion-MNIST and CIFAR-10, at the best learning rate.

python -m equisep -m experiment=alexnet && python reproduce/alexnet.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("alexnet")
