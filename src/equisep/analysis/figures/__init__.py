"""The figures: what each is (catalogue), what they share (panels), and one file for each with its own drawing."""
