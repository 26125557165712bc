"""Log D against layer on 32×32 images at width 1,000, depth 4, 8, 20, at the best learning rate.

python -m equisep -m experiment=original_size && python reproduce/original_size.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("original_size")
