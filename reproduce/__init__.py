"""One script per figure: makes figure, tables and verdict from an experiment's recorded runs."""
