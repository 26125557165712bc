"""The law through training: log D against layer at nine epochs, depth 8 and 20, Adam.

python -m equisep -m experiment=emergence && python reproduce/emergence.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("emergence")
