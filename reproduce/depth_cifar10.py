"""The last layer's D against depth on CIFAR-10 10×10, at the best learning rate of each depth.

python -m equisep -m experiment=depth_cifar10 && python reproduce/depth_cifar10.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("depth_cifar10")
