"""Log D against layer where layers are narrow then wide, wide then narrow, mixed, at the best learning rate.

python -m equisep -m experiment=shape && python reproduce/shape.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("shape")
