"""Tables, verdicts, figures and the report, from recorded runs."""
