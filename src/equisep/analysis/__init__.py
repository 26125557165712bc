"""What is made of recorded runs: tables, verdicts, figures, the report."""
