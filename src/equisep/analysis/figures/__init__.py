"""The figures: their definitions (catalogue), shared drawing code (panels), and a file for each special figure."""
